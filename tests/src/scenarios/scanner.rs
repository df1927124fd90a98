//! What a scanner that we did not write finds wrong with the server's TLS: testssl.sh, on the port where clients,
//! browsers and other servers arrive.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use atedge_service::tls::read_certificates;
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::Value;

use crate::process::run as run_program;
use crate::scenario::Run;
use crate::town::Town;

const ALICE: &str = "@alice";
/// What is looked at, a run each, so that none takes long: protocols, suites and their order; the certificate;
/// known weaknesses.
const LOOKS: [&[&str]; 3] = [&["-p", "-s", "-f", "-P"], &["-S"], &["-U"]];
/// As long as public authorities let certificates live.
const LIFETIME: Duration = Duration::from_hours(24 * 90);

/// Nothing is found that is worse than a piece of information.
///
/// # Errors
/// Something is, or the scanner does not run.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let town = Town::start(&run.folder, &[&[ALICE]])?;
    certify(&run.folder.join("ca"), &town.certificate())?;
    let file = read_certificates(&town.certificate())?;
    let began = Instant::now();
    while town.dial(ALICE)?.certificate() != Some(file[0].as_ref()) {
        ensure!(began.elapsed() < Duration::from_secs(30), "the certificate is never shown");
        std::thread::sleep(Duration::from_millis(10));
    }
    let target = format!("localhost:{}", town.tenant(ALICE)?.address.port());
    let (mut looked, mut found) = (0, Vec::new());
    for (number, looks) in LOOKS.iter().enumerate() {
        let report = run.folder.join(format!("testssl-{number}.json"));
        let mut command = Command::new("testssl");
        command.args(["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"]);
        command
            .arg("--add-ca")
            .arg(run.folder.join("ca/ca.pem"))
            .arg("--jsonfile")
            .arg(&report)
            .args(*looks)
            .arg(&target);
        run_program("testssl", &mut command, &run.folder)?;
        let findings: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&report)?)?;
        looked += findings.len();
        found.extend(
            findings
                .into_iter()
                .filter(is_bad)
                .map(|one| format!("{} {}: {}", one["severity"], one["id"], one["finding"])),
        );
    }
    run.note("findings", looked);
    run.note("above_information", found.len());
    ensure!(looked > 50, "the scanner looked at {looked} things only");
    ensure!(found.is_empty(), "{}", found.join("; "));
    Ok(())
}

/// Above information. That it does not know the service is said of its own knowledge.
fn is_bad(finding: &Value) -> bool {
    !matches!(finding["severity"].as_str(), Some("OK" | "INFO" | "DEBUG"))
}

/// Puts a certificate in place as a public authority would issue it, from the town's own: of a usual lifetime, and
/// saying where one can ask whether it was revoked.
fn certify(authority: &Path, certificate: &Path) -> Result<()> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "atedge development authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuer = Issuer::new(ca, KeyPair::from_pem(&std::fs::read_to_string(authority.join("ca.key"))?)?);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    let now = SystemTime::now();
    (params.not_before, params.not_after) = (now.into(), (now + LIFETIME).into());
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.crl_distribution_points =
        vec![CrlDistributionPoint { uris: vec!["http://localhost/authority.crl".to_owned()] }];
    let key = KeyPair::generate()?;
    std::fs::write(
        certificate,
        format!("{}{}", params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()),
    )?;
    Ok(())
}
