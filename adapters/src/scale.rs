//! What a raw number is multiplied by to have its unit.

/// `number` times `scale`. Dividing by ten is exact where multiplying by the nearest to 0.1 is not: 3 becomes 0.3,
/// and not 0.30000000000000004.
pub(crate) fn scaled(number: f64, scale: f64) -> f64 {
    let divisor = scale.recip().round();
    if divisor != 0.0 && divisor.recip() == scale { number / divisor } else { number * scale }
}
