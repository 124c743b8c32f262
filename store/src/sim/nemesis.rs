//! What goes wrong in a run, one fault after the other, as the seed says.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{cluster, world};

/// A time between two.
pub fn millis(least: u64, most: u64) -> Duration {
    Duration::from_millis(least + world::below(most - least + 1))
}

/// The leader, most of the time.
fn victim() -> usize {
    if world::chance(650) { cluster::leader().unwrap_or_else(cluster::somebody) } else { cluster::somebody() }
}

/// Starts a replica again, if it is one that counts.
async fn restart(number: usize) {
    if !cluster::is_gone(number) {
        cluster::start(number).await;
    }
}

/// Nothing gets from one side to the other.
fn cut(one: &[usize], other: &[usize]) {
    for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (*from, *to))) {
        world::set_cut(from, to, true);
        world::set_cut(to, from, true);
    }
}

/// One fault, from its beginning to its end.
async fn fault() {
    match world::below(14) {
        0 | 1 => {
            let number = victim();
            cluster::crash(number);
            sleep(millis(50, 2_500)).await;
            restart(number).await;
        }
        2 => some_crash().await,
        3 => {
            let all = cluster::present();
            if world::chance(600) {
                // With much on its way to the disks.
                all.iter().for_each(|number| world::set_slow_disk(*number, 400));
                sleep(millis(100, 1_500)).await;
            }
            all.iter().copied().for_each(cluster::crash);
            all.iter().for_each(|number| world::set_slow_disk(*number, 0));
            sleep(millis(10, 500)).await;
            for number in all {
                restart(number).await;
            }
        }
        4 | 5 => alone(victim()).await,
        6 => {
            let (one, other): (Vec<usize>, Vec<usize>) = cluster::present().into_iter().partition(|_| world::chance(500));
            world::note(format_args!("two sides: {one:?} and {other:?}"));
            cut(&one, &other);
            sleep(millis(500, 4_000)).await;
            world::mend();
        }
        7 => {
            // Single links, in single directions.
            for _ in 0..=world::below(cluster::present().len() as u64) {
                let (from, to) = (cluster::somebody(), cluster::somebody());
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
            let number = cluster::somebody();
            world::note(format_args!("store{} has a slow disk", number + 1));
            world::set_slow_disk(number, 20 + world::below(400));
            sleep(millis(500, 3_000)).await;
            if world::chance(300) {
                // In the middle of something, most likely.
                cluster::crash(number);
                sleep(millis(0, 300)).await;
                restart(number).await;
            }
            world::set_slow_disk(number, 0);
        }
        11 => between_two().await,
        12 => torn_leader().await,
        _ => {
            // Somebody crashes, its peers go on, somebody else crashes before the first has caught up.
            let (first, second) = (victim(), cluster::somebody());
            cluster::crash(first);
            sleep(millis(500, 3_000)).await;
            restart(first).await;
            sleep(millis(0, 200)).await;
            cluster::crash(second);
            sleep(millis(50, 1_000)).await;
            restart(second).await;
        }
    }
}

/// Some at the same moment, more than a majority too.
async fn some_crash() {
    let mut some = cluster::present();
    let count = 1 + world::below(some.len() as u64) as usize;
    while some.len() > count {
        some.remove(world::below(some.len() as u64) as usize);
    }
    some.iter().copied().for_each(cluster::crash);
    sleep(millis(50, 1_000)).await;
    for number in some {
        restart(number).await;
        sleep(millis(0, 300)).await;
    }
}

async fn alone(number: usize) {
    world::note(format_args!("store{} is alone", number + 1));
    let (out, back) = match world::below(4) {
        0 => (true, false),
        1 => (false, true),
        _ => (true, true),
    };
    for other in cluster::present().into_iter().filter(|other| *other != number) {
        world::set_cut(number, other, out);
        world::set_cut(other, number, back);
    }
    // Long enough now and then that leases run out meanwhile.
    sleep(if world::chance(200) { millis(4_000, 9_000) } else { millis(500, 4_000) }).await;
    world::mend();
}

/// Two sides that cannot hear each other compete for the voice of one between them, which crashes whenever it gave it.
async fn between_two() {
    let mut others = cluster::present();
    if others.len() < 3 {
        return;
    }
    let middle = others.remove(world::below(others.len() as u64) as usize);
    let (one, other) = others.split_at(others.len() / 2);
    world::note(format_args!("store{} is between {one:?} and {other:?}", middle + 1));
    cut(one, other);
    others.iter().copied().for_each(cluster::crash);
    cluster::crash(middle);
    sleep(millis(10, 200)).await;
    for number in others.iter().copied().chain([middle]) {
        restart(number).await;
    }
    let until = Instant::now() + millis(2_000, 6_000);
    world::take_granted(middle);
    while Instant::now() < until {
        sleep(Duration::from_millis(1)).await;
        if world::take_granted(middle) {
            cluster::crash(middle);
            sleep(millis(0, 40)).await;
            restart(middle).await;
        }
    }
    world::mend();
}

/// A leader that is cut off while its clients still reach it crashes, and is back when the others have another.
async fn torn_leader() {
    let Some(number) = cluster::leader() else { return };
    world::note(format_args!("store{} leads alone", number + 1));
    let others: Vec<usize> = cluster::present().into_iter().filter(|other| *other != number).collect();
    cut(&[number], &others);
    sleep(millis(20, 400)).await;
    cluster::crash(number);
    sleep(millis(0, 3_000)).await;
    world::mend();
    restart(number).await;
}

/// Faults until then, and none any more.
pub async fn run(until: Instant) {
    sleep(millis(500, 2_500)).await;
    while Instant::now() < until {
        fault().await;
        sleep(millis(0, 1_500)).await;
    }
}

/// Ends all faults.
pub async fn heal() {
    world::mend();
    world::with(|world| (world.loss, world.delay) = (0, 3));
    for number in 0..cluster::size() {
        world::set_slow_disk(number, 0);
        restart(number).await;
    }
    world::note("no more faults");
}
