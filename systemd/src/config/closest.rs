//! Which of the names that exist did they mean?

/// The candidate nearest to `word`, if one is near enough to be meant.
pub(super) fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let (distance, nearest) =
        candidates.iter().map(|candidate| (distance(word, candidate), *candidate)).min()?;
    let longest = word.chars().count().max(nearest.chars().count());
    (distance * 2 <= longest).then_some(nearest)
}

/// Edits from one to the other: a letter added, dropped, changed, or two neighbours swapped. A word
/// that the other begins with counts as one edit: `baudrate` is near `baud`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    if a.len().min(b.len()) >= 3 && a != b && (a.starts_with(&b) || b.starts_with(&a)) {
        return 1;
    }
    // Optimal string alignment; `rows[i][j]` is the distance of the first `i` letters to the first `j`.
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [
            ("", "abc", 3),
            ("same", "same", 0),
            ("parity", "pariti", 1),
            ("tiemout", "timeout", 1),
            ("baudrate", "baud", 1),
            ("port", "stop_bits", 7),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn far_words_are_not_meant() {
        assert_eq!(closest("intervall", &["port", "interval", "parity"]), Some("interval"));
        assert_eq!(closest("colour", &["port", "interval", "parity"]), None);
        assert_eq!(closest("anything", &[]), None);
    }
}
