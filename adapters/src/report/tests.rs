use std::sync::mpsc as std_mpsc;
use std::time::{Duration as StdDuration, Instant as StdInstant};

use proptest::prelude::*;

use super::*;
use crate::{AdapterError, Delivery, Point, Value};

fn rules(toml: &str) -> ReportConfig {
    let rules: ReportConfig = toml::from_str(toml).unwrap();
    rules.check().unwrap();
    rules
}

fn reading(points: &[(&str, Value)]) -> Reading {
    let point = |(name, value): &(&str, Value)| Point {
        name: name.parse().unwrap(),
        value: value.clone(),
        unit: None,
    };
    Reading {
        device: "boiler".parse().unwrap(),
        stream: "process".parse().unwrap(),
        points: points.iter().map(point).collect(),
        time: None,
        device_id: None,
        delivery: None,
    }
}

/// The names of the points of a reading that are reported.
fn reported_of(filter: &mut Filter, now: StdInstant, points: &[(&str, Value)]) -> Vec<String> {
    let reported = filter.take(reading(points), now);
    reported
        .map_or_else(Vec::new, |reading| reading.points.iter().map(|point| point.name.to_string()).collect())
}

fn changes(toml: &str) -> Filter {
    Filter::new(rules(toml), OwnDeadbands::new())
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn the_first_value_is_reported_and_then_what_changed() {
    let mut filter = changes("on = \"change\"");
    let now = StdInstant::now();
    let mut of = |points: &[(&str, Value)]| reported_of(&mut filter, now, points);
    assert_eq!(of(&[("t", Value::Float(20.0)), ("n", Value::Integer(1))]), ["t", "n"]);
    assert!(of(&[("t", Value::Float(20.0)), ("n", Value::Integer(1))]).is_empty());
    assert_eq!(of(&[("t", Value::Float(20.1)), ("n", Value::Integer(1))]), ["t"]);
    assert_eq!(of(&[("new", Value::Bool(true)), ("n", Value::Integer(1))]), ["new"]);
}

#[test]
fn every_kind_of_value_has_its_changes() {
    let now = StdInstant::now();
    let data = |bytes: &[u8]| Value::Data { bytes: bytes.into(), content_type: None };
    for (from, to, changed) in [
        (text("on"), text("on"), false),
        (text("on"), text("off"), true),
        (Value::Bool(true), Value::Bool(true), false),
        (Value::Bool(true), Value::Bool(false), true),
        (data(b"ab"), data(b"ab"), false),
        (data(b"ab"), data(b"ac"), true),
        // Another type is a change, but numbers are numbers: JSON has one kind of them.
        (text("1"), Value::Integer(1), true),
        (Value::Bool(true), Value::Integer(1), true),
        (text("ab"), data(b"ab"), true),
        (Value::Integer(21), Value::Float(21.0), false),
        (Value::Float(21.0), Value::Integer(22), true),
        (Value::Integer(i64::MAX), Value::Integer(i64::MAX - 1), true),
        (Value::Integer(i64::MIN), Value::Integer(i64::MAX), true),
        (Value::Float(0.0), Value::Float(-0.0), false),
        (Value::Float(f64::NAN), Value::Float(f64::NAN), true),
        (Value::Float(1.0), Value::Float(f64::NAN), true),
        (Value::Float(f64::NAN), Value::Float(1.0), true),
        (Value::Float(f64::INFINITY), Value::Float(f64::INFINITY), true),
        (Value::Float(-f64::MAX), Value::Float(f64::MAX), true),
    ] {
        let mut filter = changes("on = \"change\"");
        assert_eq!(reported_of(&mut filter, now, &[("x", from.clone())]), ["x"]);
        let second = reported_of(&mut filter, now, &[("x", to.clone())]);
        assert_eq!(!second.is_empty(), changed, "{from:?} to {to:?}");
    }
}

#[test]
fn a_deadband_counts_from_what_was_reported_so_that_nothing_creeps() {
    let mut filter = changes("on = \"change\"\ndeadband = 0.5");
    let now = StdInstant::now();
    let reported = (0..100)
        .filter(|n| !reported_of(&mut filter, now, &[("t", Value::Float(f64::from(*n) * 0.1))]).is_empty());
    // 0, 0.6, 1.2 and so on: one in six of a slow ramp.
    assert_eq!(reported.count(), 17);
}

#[test]
fn a_point_s_own_deadband_goes_before_that_of_its_name_and_that_before_all() {
    let rules = rules("on = \"change\"\ndeadband = 1.0\ndeadbands = { b = 2.0, c = 2.0 }");
    let own = OwnDeadbands::from([(("boiler".parse().unwrap(), "c".parse().unwrap()), 3.0)]);
    let mut filter = Filter::new(rules, own);
    let now = StdInstant::now();
    let all = |number: f64| ["a", "b", "c"].map(|name| (name, Value::Float(number)));
    assert_eq!(reported_of(&mut filter, now, &all(0.0)), ["a", "b", "c"]);
    assert_eq!(reported_of(&mut filter, now, &all(1.0)), [""; 0]);
    assert_eq!(reported_of(&mut filter, now, &all(1.5)), ["a"]);
    assert_eq!(reported_of(&mut filter, now, &all(2.5)), ["b"]);
    assert_eq!(reported_of(&mut filter, now, &all(3.5)), ["a", "c"]);
}

#[test]
fn both_keeps_the_points_of_a_reading_together() {
    let mut filter = changes("on = \"both\"");
    let now = StdInstant::now();
    let pair = |number: i64| [("a", Value::Integer(number)), ("b", text("same"))];
    assert_eq!(reported_of(&mut filter, now, &pair(1)), ["a", "b"]);
    assert!(reported_of(&mut filter, now, &pair(1)).is_empty());
    assert_eq!(reported_of(&mut filter, now, &pair(2)), ["a", "b"]);
}

#[test]
fn a_heartbeat_reports_what_has_not_changed() {
    let mut filter = changes("on = \"change\"\nheartbeat = \"5m\"");
    let start = StdInstant::now();
    let mut after = |seconds: u64| {
        let now = start + StdDuration::from_secs(seconds);
        !reported_of(&mut filter, now, &[("t", Value::Integer(1))]).is_empty()
    };
    let reported: Vec<_> = (0..2000).step_by(10).filter(|seconds| after(*seconds)).collect();
    assert_eq!(reported, [0, 300, 600, 900, 1200, 1500, 1800]);
}

#[test]
fn what_is_repeated_is_never_held_back() {
    let mut filter = changes("on = \"change\"");
    let now = StdInstant::now();
    let delivery = |dup| Delivery { session: "s".into(), number: 1, packet: 1, dup, digest: [0; 8] };
    let with = |dup| Reading { delivery: Some(delivery(dup)), ..reading(&[("t", Value::Integer(1))]) };
    assert!(filter.take(with(false), now).is_some());
    assert!(filter.take(with(false), now).is_none());
    assert!(filter.take(with(true), now).is_some(), "it may not have been kept the first time");
}

#[test]
fn memory_has_a_bound_and_what_is_beyond_it_is_reported() {
    let mut filter = changes("on = \"change\"");
    let now = StdInstant::now();
    let say = |filter: &mut Filter, n: usize| {
        let device = format!("d{n}").parse().unwrap();
        filter.take(Reading { device, ..reading(&[("t", Value::Integer(1))]) }, now).is_some()
    };
    for n in 0..MOST_POINTS + 100 {
        assert!(say(&mut filter, n));
    }
    assert!(!say(&mut filter, 0), "it is known");
    assert!(say(&mut filter, MOST_POINTS), "there was no room for it");
}

fn windows(with: &str, start: StdInstant) -> Windows {
    Windows::new(toml::from_str(&format!("every = \"60s\"\nwith = {with}")).unwrap(), start)
}

fn points(readings: &[Reading]) -> Vec<(String, Value)> {
    let all = readings.iter().flat_map(|reading| &reading.points);
    all.map(|point| (point.name.to_string(), point.value.clone())).collect()
}

#[test]
fn a_window_is_summed_up_at_its_end() {
    let start = StdInstant::now();
    let mut windows = windows(r#"["mean", "min", "max", "last"]"#, start);
    assert_eq!(windows.end(), None, "nothing was said");
    for number in [3.0, f64::NAN, 1.0, 5.0] {
        let said = reading(&[("t", Value::Float(number)), ("state", text("on"))]);
        assert_eq!(windows.take(said, start), None);
    }
    assert_eq!(windows.end(), Some(start + StdDuration::from_secs(60)));
    assert_eq!(windows.close(start + StdDuration::from_secs(59), false), []);
    let summary = windows.close(start + StdDuration::from_secs(61), false);
    let numbers = [("t_mean", 3.0), ("t_min", 1.0), ("t_max", 5.0), ("t", 5.0)];
    let mut expected = vec![("state".to_owned(), text("on"))];
    expected.extend(numbers.map(|(name, number)| (name.to_owned(), Value::Float(number))));
    assert_eq!(points(&summary), expected);
    // The next one ends on the grid, and is another.
    assert_eq!(windows.take(reading(&[("t", Value::Integer(7))]), start + StdDuration::from_secs(61)), None);
    assert_eq!(windows.end(), Some(start + StdDuration::from_secs(120)));
    let last = windows.close(start + StdDuration::from_secs(62), true);
    assert_eq!(points(&last)[0], ("t_mean".to_owned(), Value::Float(7.0)));
    assert_eq!(windows.close(start + StdDuration::from_secs(500), true), []);
}

#[test]
fn what_cannot_be_summed_up_is_reported_as_it_is() {
    let start = StdInstant::now();
    let mut windows = windows(r#"["mean"]"#, start);
    let data = Value::Data { bytes: vec![1], content_type: None };
    let long = "n".repeat(PointName::MAX);
    let rest = windows
        .take(reading(&[("image", data), ("t", Value::Integer(1)), (&long, Value::Integer(1))]), start);
    assert_eq!(
        points(rest.as_slice()).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["image", &long]
    );
}

proptest! {
    #[test]
    fn a_mean_is_within_its_window(numbers in prop::collection::vec(any::<f64>().prop_filter("finite", |n| n.is_finite()), 1..50)) {
        let start = StdInstant::now();
        let mut windows = windows(r#"["mean", "min", "max"]"#, start);
        for number in &numbers {
            windows.take(reading(&[("t", Value::Float(*number))]), start);
        }
        let summary = points(&windows.close(start, true));
        let of = |at: usize| { let Value::Float(number) = summary[at].1 else { panic!() }; number };
        let (mean, min, max) = (of(0), of(1), of(2));
        let slack = 1e-9 * min.abs().max(max.abs());
        prop_assert!(mean.is_finite() && min - slack <= mean && mean <= max + slack, "{} {} {}", min, mean, max);
    }
}

#[test]
fn settings_that_make_no_sense_are_named() {
    for (toml, setting) in [
        ("deadband = -1.0", "report.deadband"),
        ("deadband = nan", "report.deadband"),
        ("deadbands = { t = inf }", "report.deadband"),
        ("heartbeat = \"10ms\"", "report.heartbeat"),
        ("window = { every = \"10ms\", with = [\"mean\"] }", "report.window.every"),
        ("window = { every = \"1m\", with = [] }", "report.window.with"),
        ("on = \"change\"\nwindow = { every = \"1m\", with = [\"mean\"] }", "report.on"),
    ] {
        let rules: ReportConfig = toml::from_str(toml).unwrap();
        assert_eq!(rules.check().unwrap_err().setting, setting, "{toml}");
    }
    assert!(toml::from_str::<ReportConfig>("on = \"sometimes\"").is_err());
}

#[test]
fn an_adapter_takes_over_what_it_leaves_out() {
    let defaults =
        rules("on = \"change\"\ndeadband = 1.0\nheartbeat = \"5m\"\ndeadbands = { a = 1.0, b = 1.0 }");
    let mut own = rules("deadband = 2.0\ndeadbands = { a = 2.0 }");
    own.fill(&defaults);
    assert_eq!(
        own,
        rules("on = \"change\"\ndeadband = 2.0\nheartbeat = \"5m\"\ndeadbands = { a = 2.0, b = 1.0 }")
    );
    let mut nothing = ReportConfig::default();
    nothing.fill(&ReportConfig::default());
    assert!(nothing.is_plain(), "everything is reported where nobody says otherwise");
}

/// An adapter that says what it is given.
struct Mouth(mpsc::Receiver<Captured>);

impl Adapter for Mouth {
    fn run(mut self: Box<Self>, intake: Intake, _: mpsc::Receiver<Command>, _: CancellationToken) -> Running {
        Box::pin(async move {
            while let Some(captured) = self.0.recv().await {
                intake.send(captured).await.ok();
            }
            Ok::<(), AdapterError>(())
        })
    }
}

/// A mouth under these rules, what it is to say, and what is reported.
fn speaking(toml: &str) -> (mpsc::Sender<Captured>, mpsc::Receiver<Captured>) {
    let (say, said) = mpsc::channel(4);
    let (intake, taken) = mpsc::channel(4);
    let adapter = reported(Box::new(Mouth(said)), rules(toml), OwnDeadbands::new());
    let (_, commands) = mpsc::channel(1);
    tokio::spawn(adapter.run(intake, commands, CancellationToken::new()));
    (say, taken)
}

#[tokio::test]
async fn what_is_not_reported_is_acknowledged_and_counted() {
    let (say, mut taken) = speaking("on = \"change\"");
    let (tell, told) = std_mpsc::channel();
    let once = |number: i64| {
        let tell = tell.clone();
        let ack = Ack::new(move |verdict| tell.send((number, verdict)).unwrap());
        Captured::Reading { reading: reading(&[("t", Value::Integer(number))]), ack }
    };
    say.send(once(1)).await.unwrap();
    let Some(Captured::Reading { ack, .. }) = taken.recv().await else { panic!("not reported") };
    assert!(told.try_recv().is_err(), "it is not kept yet");
    ack.accept();
    assert_eq!(told.try_recv(), Ok((1, Verdict::Accepted)));
    say.send(once(1)).await.unwrap();
    assert!(matches!(taken.recv().await, Some(Captured::Suppressed { .. })));
    assert_eq!(told.try_recv(), Ok((1, Verdict::Accepted)));
    // What was given up does not count as reported.
    say.send(once(2)).await.unwrap();
    drop(taken.recv().await);
    assert_eq!(told.try_recv(), Ok((2, Verdict::Abandoned)));
    say.send(once(2)).await.unwrap();
    assert!(matches!(taken.recv().await, Some(Captured::Reading { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_window_ends_by_itself_and_with_its_adapter() {
    let (say, mut taken) = speaking("window = { every = \"1m\", with = [\"mean\"] }");
    let pair = async |taken: &mut mpsc::Receiver<Captured>| {
        for number in [1, 3] {
            let reading = reading(&[("t", Value::Integer(number))]);
            say.send(Captured::Reading { reading, ack: Ack::nobody_waits() }).await.unwrap();
            assert!(matches!(taken.recv().await, Some(Captured::Suppressed { .. })));
        }
    };
    pair(&mut taken).await;
    let began = Instant::now();
    let Some(Captured::Reading { reading: summary, .. }) = taken.recv().await else { panic!("no summary") };
    assert_eq!(points(&[summary]), [("t_mean".to_owned(), Value::Float(2.0))]);
    assert!(began.elapsed() <= StdDuration::from_secs(60));
    pair(&mut taken).await;
    drop(say);
    let Some(Captured::Reading { reading, .. }) = taken.recv().await else { panic!("no last summary") };
    assert_eq!(points(&[reading]), [("t_mean".to_owned(), Value::Float(2.0))]);
    assert!(taken.recv().await.is_none());
}
