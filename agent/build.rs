//! Where the agent is built for size, the linker keeps what most gateways never run apart: see `apart.ld`.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=apart.ld");
    if var("OPT_LEVEL").is_ok_and(|level| level == "z") {
        let folder = var("CARGO_MANIFEST_DIR").expect("cargo says where the manifest is");
        println!("cargo::rustc-link-arg-bin=atedge-agent=-Wl,-T,{folder}/apart.ld");
    }
}
