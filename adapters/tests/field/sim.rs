//! The simulated devices against the adapters they stand in for.

use std::net::{Ipv4Addr, SocketAddr};

use atedge_adapters::Value;
use atedge_adapters::sim::{Scale, Sensor};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::gateway::{Gateway, value, within};
use super::mosquitto::free_port;

#[tokio::test]
async fn the_scale_is_weighed() {
    let mut scale = Scale::new().unwrap();
    let mut gateway = Gateway::start(&format!(
        r#"
        type = "serial"
        port = "{}"
        device = "scale1"
        stream = "weights"
        framing = {{ kind = "line", ending = "crlf" }}
        decode = {{ as = "text", type = "f64" }}
        poll = {{ send = "P\r\n", every = "50ms" }}
        "#,
        scale.path().display()
    ));
    assert!(within("the question", scale.hear()).await.unwrap().starts_with(b"P\r\n"));
    scale.say("12.5").await.unwrap();
    assert_eq!(value(&gateway.reading().await.0), &Value::Float(12.5));
    gateway.stop().await;
}

#[tokio::test]
async fn the_sensor_publishes_and_takes_commands() {
    let port = free_port();
    let mut gateway = Gateway::start(&format!(
        r#"
        type = "mqtt"
        listen = "127.0.0.1:{port}"
        [route.env]
        topic = "site/{{dev}}/env"
        device = "{{dev}}"
        stream = "process"
        decode = {{ as = "json" }}
        "#
    ));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    let sensor = Sensor::new("sensor", address, "site/boiler/env", "cmd/boiler");
    let (payloads, published) = mpsc::channel(4);
    let (command, mut commands) = mpsc::channel(4);
    let sensor = tokio::spawn(sensor.run(published, command));
    for n in 0..20 {
        payloads.send(format!("{{\"n\":{n}}}").into_bytes()).await.unwrap();
        let (reading, ack) = gateway.reading().await;
        assert_eq!(value(&reading), &Value::Integer(n));
        ack.accept();
    }
    gateway.publish("cmd/boiler", "62").await.unwrap();
    assert_eq!(within("the command", commands.recv()).await.unwrap(), b"62");
    drop(payloads);
    assert_eq!(within("the sensor's end", sensor).await.unwrap().unwrap(), 20);
    gateway.stop().await;
}
