//! The load program runs, on what it needs no server for.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

#[test]
fn limits_are_measured_and_told_one_json_line_each() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_load")).args(["limits", "--json"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    ensure!(rows.len() == 6, "{text}");
    for row in rows {
        let measured = row["measured"].as_f64().with_context(|| row.to_string())?;
        ensure!(measured > 0.0 && row["row"] == "limit" && row["pass"] == true, "{row}");
    }
    Ok(())
}
