//! MQTT over TLS, towards a broker and towards devices, with certificates of an authority of our own.

use std::path::PathBuf;
use std::sync::Arc;

use atedge_adapters::Value;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use super::broker::Peer;
use super::gateway::{Gateway, value};
use super::mosquitto::{Mosquitto, free_port};
use super::packet::{Connect, Device, V5, puback, publish};

/// Who makes certificates, and the folder in which they lie.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for this name and for localhost, and its key.
    pub(crate) fn issue(&self, name: &str) -> [PathBuf; 2] {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let of = |what: &str| self.folder.path().join(format!("{name}.{what}"));
        std::fs::write(of("cert"), certificate.pem()).unwrap();
        std::fs::write(of("key"), key.serialize_pem()).unwrap();
        [of("cert"), of("key")]
    }

    /// A device that trusts this authority, and shows a certificate of `identity`.
    fn device(&self, identity: Option<&Self>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match identity.map(|authority| authority.issue("device")) {
            None => config.with_no_client_auth(),
            Some([cert, key]) => {
                let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

#[tokio::test]
async fn a_broker_is_reached_over_tls_with_a_certificate() {
    for version in ["\"3.1.1\"", "5"] {
        let authority = Authority::new();
        let (broker, port) = Mosquitto::start_with_tls(&authority).await;
        let [cert, key] = authority.issue("gateway");
        let table = |host: &str, tls: &str| {
            format!(
                r#"
                type = "mqtt"
                url = "mqtts://{host}:{port}"
                version = {version}
                client_id = "gateway"
                {tls}
                [route.env]
                topic = "site/{{dev}}/env"
                device = "{{dev}}"
                stream = "process"
                decode = {{ as = "json" }}
                "#
            )
        };
        let ca = authority.ca().display().to_string();
        let with_all = format!(
            "tls = {{ ca = \"{ca}\", cert = \"{}\", key = \"file:{}\" }}",
            cert.display(),
            key.display()
        );
        for host in ["localhost", "127.0.0.1"] {
            let mut gateway = Gateway::start(&table(host, &with_all));
            let before = broker.logged("Sending SUBACK to gateway").len();
            broker.logs_more_than(before, "Sending SUBACK to gateway").await;
            let mut peer = Peer::new(&broker);
            peer.publish("site/boiler/env", &format!("{{\"text\":\"{}\"}}", "x".repeat(100_000))).await;
            let (reading, ack) = gateway.reading().await;
            assert!(matches!(value(&reading), Value::Text(text) if text.len() == 100_000));
            ack.accept();
            broker.logs("Received PUBACK from gateway").await;
            gateway.publish("site/lamp/set", "on").await.unwrap();
            gateway.stop().await;
        }
        // Without our certificate, or without trust in the broker's, nobody talks to anybody.
        for tls in [format!("tls = {{ ca = \"{ca}\" }}"), String::new()] {
            let refused = broker.logged("rror").len();
            let gateway = Gateway::start(&table("localhost", &tls));
            broker.logs_more_than(refused, "rror").await;
            gateway.stop().await;
        }
        let let_in = broker.logged("New client connected");
        assert_eq!(let_in.iter().filter(|line| line.contains("as gateway")).count(), 2, "{let_in:?}");
    }
}

fn listener(port: u16, tls: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
        type = "mqtt"
        listen = "127.0.0.1:{port}"
        {tls}
        {more}
        [route.env]
        topic = "site/{{dev}}/env"
        device = "{{dev}}"
        stream = "process"
        decode = {{ as = "text", type = "i64" }}
        "#
    ))
}

const ME: Connect<'static> = Connect { version: V5, client_id: "d1", clean: true, keep_alive: 60 };

#[tokio::test]
async fn devices_with_a_certificate_are_let_in_and_others_are_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let [cert, key] = authority.issue("gateway");
    let port = free_port();
    let identity = format!("cert = \"{}\", key = \"file:{}\"", cert.display(), key.display());
    let tls = format!("tls = {{ ca = \"{}\", {identity} }}", authority.ca().display());
    let mut gateway = listener(port, &tls, "");
    let mut device = Device::open_tls(port, &authority.device(Some(&authority))).await.unwrap();
    device.introduce(&ME).await;
    device.says(&publish(V5, 0x02, "site/boiler/env", 7, b"21")).await;
    let (reading, ack) = gateway.reading().await;
    assert_eq!(value(&reading), &Value::Integer(21));
    ack.accept();
    assert_eq!(device.hears().await, puback(7));
    for connector in [authority.device(None), authority.device(Some(&other))] {
        // With TLS 1.3 a client learns at its first read that it was turned away.
        if let Ok(mut device) = Device::open_tls(port, &connector).await {
            device.says(&ME.bytes()).await;
            assert_eq!(device.hears_or_ends().await, None);
        }
    }
    // Nor is who speaks no TLS at all.
    let mut plain = Device::open(port).await;
    plain.says(&ME.bytes()).await;
    assert!(plain.hears_or_ends().await.is_none_or(|packet| packet[0] != 0x20));
    assert!(Device::open_tls(port, &other.device(None)).await.is_err(), "it trusts another authority");
    gateway.stop().await;

    // Where no authority is named, no certificate is asked for.
    let port = free_port();
    let gateway = listener(port, &format!("tls = {{ {identity} }}"), "");
    let mut device = Device::open_tls(port, &authority.device(None)).await.unwrap();
    device.introduce(&ME).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_device_is_held_to_its_limits() {
    let port = free_port();
    let limits = "limits = { messages = 50, topics = 2, connections = 2 }\nconnections = 3";
    let mut gateway = listener(port, "", limits);
    let (mut device, _) = Device::connect(port, &ME).await;
    for (topic, fits) in
        [("site/a/env", true), ("site/b/env", true), ("site/c/env", false), ("site/a/env", true)]
    {
        device.says(&publish(V5, 0x02, topic, 7, b"1")).await;
        if fits {
            gateway.reading().await.1.accept();
        } else {
            let why = gateway.refusal().await;
            assert_eq!(why.kind(), "topics", "{why}");
            assert!(why.to_string().contains("site/c/env"), "{why}");
        }
        assert_eq!(device.hears().await, puback(7), "what is refused is acknowledged");
    }
    // What is said too fast comes later, and all of it.
    let began = tokio::time::Instant::now();
    let flood: Vec<u8> = (0..150).flat_map(|_| publish(V5, 0, "site/a/env", 0, b"1")).collect();
    device.says(&flood).await;
    for _ in 0..150 {
        gateway.reading().await;
    }
    let took = began.elapsed().as_secs_f64();
    assert!((1.5..6.0).contains(&took), "150 publications at 50 a second, less a burst, took {took} s");
    // A third connection from here is one too many, and the device that is there stays.
    let _second = Device::open(port).await;
    let mut third = Device::open(port).await;
    assert_eq!(gateway.refusal().await.kind(), "connections");
    assert_eq!(third.hears_or_ends().await, None);
    device.says(&publish(V5, 0, "site/a/env", 0, b"2")).await;
    assert_eq!(value(&gateway.reading().await.0), &Value::Integer(2));
    gateway.stop().await;
}
