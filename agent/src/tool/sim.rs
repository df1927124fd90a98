//! `sim`: devices that are not there, for trials.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use atedge_adapters::sim::{Scale, Sensor, SerialUnits, Units, serve_units};
use atedge_adapters::units::Duration;
use atedge_service::{Exit, stop_signal};
use clap::{Args, Subcommand};
use tokio::net::TcpListener;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, interval};
use tokio_util::sync::CancellationToken;

use super::scan::Numbers;
use super::{Complaint, run, say};

/// Simulate a device until SIGINT or SIGTERM.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent sim modbus --listen 127.0.0.1:5020 --units 1-3")]
pub struct Sim {
    #[command(subcommand)]
    device: Device,
}

#[derive(Debug, Subcommand)]
enum Device {
    /// Modbus units: over TCP, or on a pseudo-terminal whose path is printed.
    ///
    /// Input register 0 is a temperature in tenths of a degree, 1 counts questions, 2 and 3 are the temperature
    /// as f32. Holding registers and coils 0 to 99 keep what is written.
    #[command(after_help = "Example: atedge-agent sim modbus --serial /tmp/rs485 --units 1-3")]
    Modbus {
        /// Listen here for Modbus TCP.
        #[arg(long, value_name = "ADDRESS", required_unless_present = "serial", conflicts_with = "serial")]
        listen: Option<SocketAddr>,
        /// Make a serial line, and this link to it.
        #[arg(long, value_name = "LINK")]
        serial: Option<PathBuf>,
        /// Which numbers there are.
        #[arg(long, value_name = "FIRST-LAST", default_value = "1-3")]
        units: Numbers,
    },
    /// A scale on a pseudo-terminal: it weighs now and again, and whenever it is asked anything.
    #[command(after_help = "Example: atedge-agent sim serial --link /tmp/scale --every 1s")]
    Serial {
        /// Make this link to the line.
        #[arg(long, value_name = "LINK")]
        link: PathBuf,
        /// How often it weighs by itself; never where this is left out.
        #[arg(long, value_name = "TIME")]
        every: Option<Duration>,
    },
    /// A sensor that publishes JSON over MQTT, to a broker or to an agent that listens.
    #[command(
        after_help = "Example: atedge-agent sim mqtt --broker 127.0.0.1:1883 --topic factory/a/boiler/env"
    )]
    Mqtt {
        /// Where to publish.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1883")]
        broker: SocketAddr,
        /// Under which topic; commands are taken under the same with `/set` behind it.
        #[arg(long, default_value = "factory/a/boiler/env")]
        topic: String,
        /// How often.
        #[arg(long, value_name = "TIME", default_value = "1s")]
        every: Duration,
    },
}

impl Sim {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(self.simulate())
    }

    async fn simulate(self) -> Result<Exit, Complaint> {
        let stop = stop_signal()
            .map_err(|error| Complaint::failed(format_args!("cannot listen for signals: {error}")))?;
        match self.device {
            Device::Modbus { listen: Some(address), units: Numbers(numbers), .. } => {
                let listening = TcpListener::bind(address).await;
                let cannot = |error| Complaint::failed(format_args!("cannot listen on {address}: {error}"));
                let listener = listening.map_err(cannot)?;
                say(format_args!("tcp://{}", listener.local_addr().map_err(cannot)?));
                serve_units(listener, || Units::new(*numbers.start(), *numbers.end()), stop)
                    .await
                    .map_err(Complaint::failed)?;
            }
            Device::Modbus { serial, units: Numbers(numbers), .. } => {
                let units = Units::new(*numbers.start(), *numbers.end());
                let units = SerialUnits::new(units).map_err(Complaint::failed)?;
                let link = Link::make(units.path(), serial.as_deref())?;
                units.run(stop).await.map_err(Complaint::failed)?;
                drop(link);
            }
            Device::Serial { link, every } => {
                let scale = Scale::new().map_err(Complaint::failed)?;
                let link = Link::make(scale.path(), Some(&link))?;
                weigh(scale, every, stop).await?;
                drop(link);
            }
            Device::Mqtt { broker, topic, every } => publish(broker, &topic, every, stop).await?,
        }
        Ok(Exit::Done)
    }
}

/// A link to a pseudo-terminal, which goes with the device.
struct Link(PathBuf);

impl Link {
    /// Says where the line is.
    fn make(line: &Path, link: Option<&Path>) -> Result<Option<Self>, Complaint> {
        let Some(link) = link else {
            say(format_args!("{}", line.display()));
            return Ok(None);
        };
        // One that is left of a former life leads nowhere.
        if link.is_symlink() && !link.exists() {
            std::fs::remove_file(link).ok();
        }
        std::os::unix::fs::symlink(line, link).map_err(|error| {
            Complaint::failed(format_args!("cannot make the link {}: {error}", link.display()))
        })?;
        say(format_args!("{}", link.display()));
        Ok(Some(Self(link.to_owned())))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn turns_of(every: Duration) -> Interval {
    interval(every.max(Duration::from_millis(1)).get())
}

/// A value that swings around `middle`.
fn swing(began: Instant, middle: f64) -> f64 {
    let swung = middle + middle / 4.0 * (began.elapsed().as_secs_f64() / 10.0).sin();
    (swung * 100.0).round() / 100.0
}

async fn weigh(mut scale: Scale, every: Option<Duration>, stop: CancellationToken) -> Result<(), Complaint> {
    let (began, mut turns) = (Instant::now(), every.map(turns_of));
    loop {
        let turn = async {
            match &mut turns {
                Some(turns) => _ = turns.tick().await,
                None => std::future::pending().await,
            }
        };
        select! {
            () = turn => {}
            heard = scale.hear() => drop(heard.map_err(Complaint::failed)?),
            () = stop.cancelled() => return Ok(()),
        }
        scale.say(&format!("+{:.2} kg", swing(began, 12.0))).await.map_err(Complaint::failed)?;
    }
}

async fn publish(
    broker: SocketAddr,
    topic: &str,
    every: Duration,
    stop: CancellationToken,
) -> Result<(), Complaint> {
    let sensor = Sensor::new("atedge-sim", broker, topic, &format!("{topic}/set"));
    let (payloads, published) = mpsc::channel(1);
    let (command, mut commands) = mpsc::channel::<Vec<u8>>(4);
    let (began, mut turns) = (Instant::now(), turns_of(every));
    let speaking = async move {
        for number in 0u64.. {
            turns.tick().await;
            let payload = format!("{{\"temp\":{},\"n\":{number}}}", swing(began, 20.0));
            if payloads.send(payload.into_bytes()).await.is_err() {
                break;
            }
        }
    };
    let hearing = async {
        while let Some(said) = commands.recv().await {
            say(format_args!("{topic}/set: {}", String::from_utf8_lossy(&said).escape_debug()));
        }
    };
    select! {
        ran = sensor.run(published, command) => ran.map(drop).map_err(Complaint::failed),
        () = speaking => Ok(()),
        () = hearing => Ok(()),
        () = stop.cancelled() => Ok(()),
    }
}
