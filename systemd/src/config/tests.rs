use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Agent {
    #[serde(default)]
    schema: Option<u32>,
    gateway: Gateway,
    #[serde(default)]
    adapter: BTreeMap<String, Adapter>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    atsign: String,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
#[expect(dead_code, reason = "one variant is only read by serde")]
enum Adapter {
    Serial(Serial),
    Mqtt(Mqtt),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Serial {
    port: String,
    #[serde(default)]
    baud: u32,
    #[serde(default)]
    retries: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read by serde")]
struct Mqtt {
    url: String,
    #[serde(default)]
    route: BTreeMap<String, Route>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read by serde")]
struct Route {
    topic: String,
    decode: Decode,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "as", rename_all = "lowercase", deny_unknown_fields)]
enum Decode {
    Json,
    Regex {
        #[serde(rename = "pattern")]
        _pattern: String,
    },
}

const GATEWAY: &str = "schema = 1\n[gateway]\natsign = \"@gw\"\n";

/// Reads `pages` as files `0.toml`, `1.toml` … and shows the error with those bare names.
fn read(pages: &[&str], environment: &[(&str, &str)]) -> Result<Agent, String> {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = pages
        .iter()
        .enumerate()
        .map(|(number, text)| {
            let path = folder.path().join(format!("{number}.toml"));
            std::fs::write(&path, text).unwrap();
            path
        })
        .collect();
    let variables: HashMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let environment = Environment::with_prefix("ATEDGE").source(Some(variables));
    Sources::read_with(&files, environment)
        .and_then(|sources| sources.parse())
        .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

#[track_caller]
fn refused(pages: &[&str], shown: &str) {
    assert_eq!(read(pages, &[]).unwrap_err(), shown.trim_start_matches('\n'));
}

#[test]
fn an_unknown_setting_inside_a_tagged_table() {
    let page =
        "[adapter.scale]\ntype = \"serial\"\nport = \"/dev/ttyS0\"\n\n# a comment\n\nbaudrate = 9600\n";
    refused(
        &[GATEWAY, page],
        "
error: unknown setting `baudrate`
  --> 1.toml:7:1
   |
 7 | baudrate = 9600
   | ^^^^^^^^ expected `baud`
1 error. The running configuration is unchanged.",
    );
}

#[test]
fn a_wrong_type_in_a_plain_table() {
    refused(
        &["[gateway]\natsign = \"@gw\"\nport = \"64\"\n"],
        "
error: wrong type for `port`
  --> 0.toml:3:8
   |
 3 | port = \"64\"
   |        ^^^^ expected a whole number from 0 to 65535, found the text \"64\"
1 error. The running configuration is unchanged.",
    );
}

#[test]
fn a_wrong_type_inside_a_tagged_table_is_found_among_equals() {
    let page = "[adapter.scale]\ntype = \"serial\"\nport = \"9600\"\nretries = 3\nbaud = \"9600\"\n";
    refused(
        &[GATEWAY, page],
        "
error: wrong type for `baud`
  --> 1.toml:5:8
   |
 5 | baud = \"9600\"
   |        ^^^^^^ expected a whole number, not negative, found the text \"9600\"
1 error. The running configuration is unchanged.",
    );
}

#[test]
fn a_wrong_type_of_what_must_be_there() {
    let page = "[adapter.scale]\ntype = \"serial\"\nport = 4\n";
    refused(
        &[GATEWAY, page],
        "
error: wrong type for `port`
  --> 1.toml:3:8
   |
 3 | port = 4
   |        ^ expected text in quotes, found 4
1 error. The running configuration is unchanged.",
    );
}

#[test]
fn an_unknown_variant() {
    let page = "[adapter.scale]\nport = \"x\"\ntype = \"seriel\"\n";
    refused(
        &[GATEWAY, page],
        "
error: `type` cannot be `seriel`
  --> 1.toml:3:8
   |
 3 | type = \"seriel\"
   |        ^^^^^^^^ expected `serial`
1 error. The running configuration is unchanged.",
    );
}

#[test]
fn every_problem_is_named_once_in_the_order_written() {
    let page = "[adapter.scale]
type = \"serial\"
colour = \"red\"
port = 7
[adapter.shop]
type = \"mqtt\"
url = \"mqtt://x\"
[adapter.shop.route.env]
topic = \"t\"
decode = { as = \"regex\", patern = \"x\" }
";
    refused(
        &[GATEWAY, page],
        "
error: unknown setting `colour`
  --> 1.toml:3:1
   |
 3 | colour = \"red\"
   | ^^^^^^ expected one of `port`, `baud`, `retries`
error: wrong type for `port`
  --> 1.toml:4:8
   |
 4 | port = 7
   |        ^ expected text in quotes, found 7
error: unknown setting `patern`
   --> 1.toml:10:26
    |
 10 | decode = { as = \"regex\", patern = \"x\" }
    |                          ^^^^^^ expected `pattern`
3 errors. The running configuration is unchanged.",
    );
}

#[test]
fn a_missing_setting_shows_its_table() {
    refused(
        &["[gateway]\nport = 64\n"],
        "
error: missing setting `atsign`
  --> 0.toml:1:1
   |
 1 | [gateway]
   | ^^^^^^^^^ expected `atsign`
1 error. The running configuration is unchanged.",
    );
    refused(
        &["schema = 1\n"],
        "
error: missing setting `gateway`
  --> 0.toml
   = expected `gateway`
1 error. The running configuration is unchanged.",
    );
}

#[test]
fn text_that_is_not_toml() {
    refused(
        &[GATEWAY, "[adapter.scale\n"],
        "
error: this is not TOML
  --> 1.toml:1:15
   |
 1 | [adapter.scale
   |               ^ unclosed table, expected `]`
1 error. The running configuration is unchanged.",
    );
}

#[test]
fn a_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let error = load::<Agent>(std::slice::from_ref(&path), "ATEDGE").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "error: cannot read this configuration\n  --> {}\n   = No such file or directory (os error 2)\n\
             1 error. The running configuration is unchanged.",
            path.display()
        )
    );
}

#[test]
fn tables_merge_by_name_and_files_may_not_disagree() {
    let serial = "schema = 1\n[adapter.scale]\ntype = \"serial\"\nport = \"/dev/ttyS0\"\n";
    let more = "[adapter.scale]\nbaud = 9600\n";
    for pages in [[GATEWAY, serial, more], [more, serial, GATEWAY]] {
        let agent = read(&pages, &[]).unwrap();
        assert_eq!(agent.schema, Some(1));
        assert!(
            matches!(&agent.adapter["scale"], Adapter::Serial(Serial { baud: 9600, port, retries: 0 }) if port == "/dev/ttyS0")
        );
    }
    refused(
        &[GATEWAY, serial, more, "[adapter.scale]\nbaud = 4800\n"],
        "
error: this is set twice
  --> 3.toml:2:1
   |
 2 | baud = 4800
   | ^^^^ another file says otherwise
1 error. The running configuration is unchanged.",
    );
}

#[test]
fn the_environment_has_the_last_word() {
    let agent = read(
        &[GATEWAY],
        &[
            ("ATEDGE__GATEWAY__ATSIGN", "@other"),
            ("ATEDGE__GATEWAY__PORT", "6400"),
            ("ATEDGE__GATEWAY__NAMES", "[\"a\", \"b\"]"),
            ("ATEDGE_LOG", "not ours"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    assert_eq!(agent.gateway.atsign, "@other");
    assert_eq!(agent.gateway.port, 6400);
    assert_eq!(agent.gateway.names, ["a", "b"]);
    let error = read(&[GATEWAY], &[("ATEDGE__GATEWAY__ATSIGN", "7")]).unwrap_err();
    assert!(error.contains("--> ATEDGE__GATEWAY__ATSIGN:1:18\n"), "{error}");
    let error = read(&[GATEWAY], &[("ATEDGE__GATEWAY__PROT", "64")]).unwrap_err();
    assert_eq!(
        error,
        "
error: unknown setting `prot`
  --> ATEDGE__GATEWAY__PROT:1:9
   |
 1 | gateway.prot = 64
   |         ^^^^ expected `port`
1 error. The running configuration is unchanged."
            .trim_start()
    );
}

#[test]
fn a_complaint_points_at_the_value_or_at_the_table_that_lacks_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, GATEWAY).unwrap();
    let sources = Sources::read(std::slice::from_ref(&path), "NOT_SET_ANYWHERE").unwrap();
    let shown = sources.complaint(&["gateway", "atsign"], "`@gw` is not activated", "").to_string();
    assert!(shown.contains("agent.toml:3:10\n   |\n 3 | atsign = \"@gw\"\n   |          ^^^^^\n"), "{shown}");
    let shown = sources.complaint(&["gateway", "keys"], "no keys", "expected `keys`").to_string();
    assert!(
        shown.contains("agent.toml:2:1\n   |\n 2 | [gateway]\n   | ^^^^^^^^^ expected `keys`\n"),
        "{shown}"
    );
}

#[test]
fn the_parts_of_a_folder_follow_the_main_file_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("agent.toml");
    std::fs::create_dir(folder.path().join("agent.d")).unwrap();
    for name in ["b.toml", "a.toml", "notes.txt"] {
        std::fs::write(folder.path().join("agent.d").join(name), "").unwrap();
    }
    let names: Vec<_> = layered(&main).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["agent.toml", "a.toml", "b.toml"]);
}
