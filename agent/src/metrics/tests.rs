//! The page, and a scraper.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::control::test_look;

fn status() -> Status {
    serde_json::from_value(serde_json::json!({
        "version": "1", "gateway": "@gw", "boot": "3-0", "uptime_s": 73, "now_ms": 500_000, "clock": "sync",
        "memory_kib": 6144, "receipts": 5, "receipts_refused": 6, "commands": { "done": 2, "rejected": 1 },
        "server": { "reached": "yes", "since_ms": 1, "why": null, "sent": 11, "put_off": 1, "refused": 0, "unreached": 4,
            "reconnects": 2 },
        "adapters": { "shop": { "state": "degraded", "why": "x", "kept": 7, "repeated": 1, "refused": 2, "suppressed": 3, "dropped": 4,
            "refused_as": { "route": 2 }, "last_reading_ms": 497_012, "last_error": null } },
        "queue": { "epoch": 3, "records": 5, "bytes": 4096, "oldest_ms": 1_500, "aside": 0, "repeats": 1, "expired": 0,
            "damaged": 0, "dropped": 4, "thinned": 0, "readers": [
                { "stream": "process", "reader": "@\"ops", "unconfirmed": 3, "confirmed_by": "receipt",
                    "lost": { "full": 4 } } ] },
    }))
    .unwrap()
}

#[test]
fn everything_that_is_counted_is_on_the_page() {
    let page = page(&status());
    for line in [
        "atedge_agent_info{version=\"1\",gateway=\"@gw\",boot=\"3-0\"} 1",
        "atedge_server_reached 1",
        "process_resident_memory_bytes 6291456",
        "atedge_notifications_total{result=\"unreached\"} 4",
        "atedge_receipts_refused_total 6",
        "atedge_commands_total{outcome=\"rejected\"} 1",
        "atedge_adapter_state{adapter=\"shop\",state=\"degraded\"} 1",
        "atedge_adapter_state{adapter=\"shop\",state=\"running\"} 0",
        "atedge_readings_total{adapter=\"shop\",result=\"kept\"} 7",
        "atedge_refusals_total{adapter=\"shop\",reason=\"route\"} 2",
        "atedge_last_reading_timestamp_seconds{adapter=\"shop\"} 497.012",
        "atedge_readings_total{adapter=\"shop\",result=\"dropped\"} 4",
        "atedge_lost_records_total{stream=\"process\",reader=\"@\\\"ops\",cause=\"full\"} 4",
        "atedge_queue_writable 1",
        "atedge_queue_oldest_timestamp_seconds 1.500",
        "atedge_unconfirmed_records{stream=\"process\",reader=\"@\\\"ops\"} 3",
    ] {
        assert!(page.lines().any(|known| known == line), "{line} is not in\n{page}");
    }
}

/// Names are a contract: the manual has those that there are, and no others.
#[test]
fn the_manual_names_them_all() {
    let manual = include_str!("../../../docs/metrics.md");
    let page = page(&status());
    let there: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: BTreeSet<&str> = rows.filter_map(|row| row.split(['`', '{']).next()).collect();
    assert_eq!(told, there);
}

#[test]
fn a_request_is_judged_when_its_head_is_whole() {
    for (head, wanted) in [
        ("GET /metrics HTTP/1.1\r\nHost: x\r\n", None),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Some(Route::Page)),
        ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Some(Route::Page)),
        ("GET / HTTP/1.0\r\n\r\n", Some(Route::Elsewhere)),
        ("POST /metrics HTTP/1.1\r\n\r\n", Some(Route::NotGet)),
        ("GET /metrics\r\n\r\n", Some(Route::Nonsense)),
        ("\r\n\r\n", Some(Route::Nonsense)),
        ("", None),
    ] {
        assert_eq!(route(head.as_bytes()), wanted, "{head:?}");
    }
    assert_eq!(route(b"GET \xff HTTP/1.1\r\n\r\n"), Some(Route::Nonsense));
}

fn asked(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    // Who is told off early may not take all of it.
    stream.write_all(request).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_scraper_gets_the_page_and_a_talker_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let look = test_look(folder.path());
    look.tallies.of("shop").kept(1);
    let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap(), look).await.unwrap();
    let address = server.address().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.run(stop.clone()));
    for (request, status, part) in [
        (
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            "200",
            "atedge_readings_total{adapter=\"shop\",result=\"kept\"} 1",
        ),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "404", "/metrics"),
        (vec![b'a'; 4096], "400", "not a request"),
    ] {
        let answer = spawn_blocking(move || asked(address, &request)).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{answer}");
        assert!(answer.contains(part), "{answer}");
    }
    stop.cancel();
    serving.await.unwrap();
}
