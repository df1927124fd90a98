//! Days on which the directory is of no use. Everybody has met everybody before: what they say to each other
//! arrives as on other days, whoever begins anew meanwhile, and nobody goes where a directory misdirects to.

use std::time::Duration;

use super::directory::{LIES, Lie};
use super::network::{Host, SERVERS};
use super::world::World;
use super::{Broken, CALM, History, KNOWN, Sabotage, drain, talk};

/// What is wrong with the directory for a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It does not answer.
    Down,
    /// It lies, each hour in another way.
    Lying,
    /// It forgets the last registrations, again and again.
    SetBack,
    /// It is a replica that has only ever heard of the first registrations.
    Stale,
}

/// All of them.
pub const TROUBLES: [Trouble; 4] = [Trouble::Down, Trouble::Lying, Trouble::SetBack, Trouble::Stale];

const HOUR: Duration = Duration::from_secs(3600);
/// Within which time whoever has crashed is there again.
const RESTARTED: Duration = Duration::from_secs(30);

/// Lives through a day of 24 hours with a directory of which that is wrong.
///
/// # Errors
/// A promise was not kept.
pub fn day(seed: u64, trouble: Trouble, sabotage: Option<Sabotage>) -> Result<History, Broken> {
    let mut world = World::new(seed, sabotage);
    let lived = through(&mut world, trouble);
    lived.map_err(|broken| Broken { trace: world.trace.last_lines(), ..broken })
}

fn through(world: &mut World, trouble: Trouble) -> Result<History, Broken> {
    (world.is_rough, world.is_talkative) = (false, false);
    world.run(Duration::from_secs(5))?;
    all_meet(world)?;
    // What a directory says that is behind the times is wrong from now on.
    for (who, to) in
        [("@bob", Host::First), ("@dev", Host::Second), ("@ops", Host::First), ("@ops", Host::Second)]
    {
        world.move_house(&who.parse().expect("an atSign"), to);
        let now = world.now;
        world.run(now + Duration::from_secs(60))?;
    }
    all_meet(world)?;
    let (dawn, mut slowest) = (world.now, Duration::ZERO);
    for hour in 0..24 {
        begin(world, trouble, hour);
        for host in begin_anew(world, hour) {
            match host {
                Host::Agent => world.crash_gateway(),
                Host::First | Host::Second => world.crash_server(host),
                Host::Directory | Host::Stranger => {}
            }
        }
        let now = world.now;
        world.run(now + RESTARTED)?;
        if trouble == Trouble::SetBack {
            // They have announced themselves again meanwhile.
            world.directory.set_back();
        }
        say_something(world);
        slowest = slowest.max(drain(world, KNOWN)?);
        world.run(dawn + HOUR * (hour + 1))?;
    }
    world.directory.is_up = true;
    world.directory.lie = None;
    say_something(world);
    drain(world, KNOWN)?;
    Ok(world.history(slowest))
}

/// Everybody learns where everybody is.
fn all_meet(world: &mut World) -> Result<(), Broken> {
    say_something(world);
    drain(world, CALM).map(drop)
}

fn say_something(world: &mut World) {
    talk(world);
    for _ in 0..4 {
        world.capture_one();
    }
}

fn begin(world: &mut World, trouble: Trouble, hour: u32) {
    let directory = &mut world.directory;
    match trouble {
        Trouble::Down => directory.is_up = false,
        Trouble::Lying => {
            directory.lie = LIES.get(usize::try_from(hour).unwrap_or_default() % LIES.len()).copied();
        }
        Trouble::SetBack => directory.set_back(),
        Trouble::Stale => directory.lie = Some(Lie::Older),
    }
}

/// Who begins anew in this hour: each alone, then all together, and chance.
fn begin_anew(world: &mut World, hour: u32) -> Vec<Host> {
    let mut all = match hour % 5 {
        1 => vec![Host::First],
        2 => vec![Host::Second],
        3 => vec![Host::Agent],
        4 => vec![Host::First, Host::Second, Host::Agent],
        _ => Vec::new(),
    };
    if world.one_in(4) {
        all.push(SERVERS[world.random.place(2)]);
    }
    all
}
