//! What goes wrong in a run, one fault after the other, as the seed says.

use std::time::Duration;

use tokio::time::sleep;

use super::{cluster, world};

/// What stays the same over a run.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Entries between snapshots.
    pub snapshots: u64,
    /// Each replica's clock, millionths.
    pub rates: [u64; cluster::MOST],
}

fn millis(least: u64, most: u64) -> Duration {
    Duration::from_millis(least + world::below(most - least + 1))
}

fn somebody() -> usize {
    world::below(cluster::size() as u64) as usize
}

/// The leader, most of the time.
fn victim() -> usize {
    if world::chance(650) { cluster::leader().unwrap_or_else(somebody) } else { somebody() }
}

async fn restart(number: usize, setting: Setting) {
    if world::running(number).is_none() {
        cluster::start(number, setting.rates[number], setting.snapshots).await;
    }
}

/// One fault, from its beginning to its end.
async fn fault(setting: Setting) {
    let size = cluster::size();
    match world::below(12) {
        0 | 1 => {
            let number = victim();
            cluster::crash(number);
            sleep(millis(50, 2_500)).await;
            restart(number, setting).await;
        }
        2 => {
            // Some at the same moment, more than a majority too.
            let number = somebody();
            let count = 1 + world::below(size as u64) as usize;
            (0..count).for_each(|more| cluster::crash((number + more) % size));
            sleep(millis(50, 1_000)).await;
            for more in 0..count {
                restart((number + more) % size, setting).await;
                sleep(millis(0, 300)).await;
            }
        }
        3 => {
            (0..size).for_each(cluster::crash);
            sleep(millis(10, 500)).await;
            for number in 0..size {
                restart(number, setting).await;
            }
        }
        4 | 5 => {
            let number = victim();
            world::note(format_args!("store{} is alone", number + 1));
            let others = || (0..size).filter(move |other| *other != number);
            let (out, back) = match world::below(4) {
                0 => (true, false),
                1 => (false, true),
                _ => (true, true),
            };
            others().for_each(|other| {
                world::set_cut(number, other, out);
                world::set_cut(other, number, back);
            });
            sleep(millis(500, 4_000)).await;
            world::mend();
        }
        6 => {
            let side: Vec<bool> = (0..size).map(|_| world::chance(500)).collect();
            world::note(format_args!("two sides: {side:?}"));
            for from in 0..size {
                for to in (0..size).filter(|to| side[from] != side[*to]) {
                    world::set_cut(from, to, true);
                }
            }
            sleep(millis(500, 4_000)).await;
            world::mend();
        }
        7 => {
            // Single links, in single directions.
            for _ in 0..=world::below(size as u64) {
                let (from, to) = (somebody(), somebody());
                world::note(format_args!("cut {from}->{to}"));
                world::set_cut(from, to, true);
            }
            sleep(millis(500, 4_000)).await;
            world::mend();
        }
        8 | 9 => {
            let number = victim();
            let Some(running) = world::running(number) else { return };
            world::note(format_args!("store{} is paused", number + 1));
            running.node.pause();
            sleep(millis(300, 5_000)).await;
            world::note(format_args!("store{} wakes", number + 1));
            running.node.resume();
        }
        10 => {
            let number = somebody();
            world::note(format_args!("store{} has a slow disk", number + 1));
            world::set_slow_disk(number, 20 + world::below(400));
            sleep(millis(500, 3_000)).await;
            world::set_slow_disk(number, 0);
        }
        _ => {
            // Somebody crashes, its peers go on, somebody else crashes before the first has caught up.
            let (first, second) = (victim(), somebody());
            cluster::crash(first);
            sleep(millis(500, 3_000)).await;
            restart(first, setting).await;
            sleep(millis(0, 200)).await;
            cluster::crash(second);
            sleep(millis(50, 1_000)).await;
            restart(second, setting).await;
        }
    }
}

/// Faults for `duration` of the world's time, then none any more.
pub async fn run(duration: Duration, setting: Setting) {
    sleep(millis(500, 2_500)).await;
    let until = tokio::time::Instant::now() + duration;
    while tokio::time::Instant::now() < until {
        fault(setting).await;
        sleep(millis(0, 1_500)).await;
    }
    world::mend();
    world::with(|world| (world.loss, world.delay) = (0, 3));
    for number in 0..cluster::size() {
        world::set_slow_disk(number, 0);
        restart(number, setting).await;
    }
    world::note("no more faults");
}
