//! temp
use super::*;
pub(super) struct Limits { pub(super) max: usize, pub(super) receive_maximum: u16, pub(super) connections: usize }
pub(super) struct Listener;
impl Listener {
    pub(super) fn new(_n: String, _a: SocketAddr, _l: Limits, _r: Arc<Routes>) -> Self { Self }
    pub(super) async fn run(self, _i: Intake, _c: mpsc::Receiver<Command>, stop: CancellationToken) -> Result<(), AdapterError> { stop.cancelled().await; Ok(()) }
}
