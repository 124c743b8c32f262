//! The pause program: the first process of every pod sandbox and of every node's network holder.
//!
//! It holds the namespaces, reaps orphans where the pod shares its process namespace, and goes away on SIGTERM or
//! SIGINT. It is a file by itself, not a crate: no standard library, no libc, about 1 KiB, 8 KiB resident. Build and
//! wrap it with
//!
//! ```text
//! rustc --edition 2024 -O -C panic=abort -C relocation-model=static -C link-arg=-nostartfiles -C link-arg=-nostdlib \
//!   -C link-arg=-static -C link-arg=-Wl,--build-id=none,-z,noseparate-code,-s -o pause pause.rs
//! tar -c pause | docker import --change 'ENTRYPOINT ["/pause"]' - balsa/pause:1
//! ```
#![no_std]
#![no_main]

use core::arch::asm;
use core::panic::PanicInfo;

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
}

#[cfg(target_arch = "x86_64")]
fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the four calls made here take integers, null or pointers to locals that outlive the call.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: as above.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
            options(nostack));
    }
    result
}

fn bit(signal: u64) -> u64 {
    1 << (signal - 1)
}

fn hold() -> ! {
    const SET_BYTES: usize = 8;
    const SIG_BLOCK: usize = 0;
    const WNOHANG: usize = 1;
    const ANY_CHILD: usize = usize::MAX;
    let wanted: u64 = bit(SIGCHLD) | bit(SIGTERM) | bit(SIGINT);
    let set = &raw const wanted as usize;
    // Blocked signals wait until they are asked for, so none is lost between two calls.
    call(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SET_BYTES);
    loop {
        let signal = call(number::RT_SIGTIMEDWAIT, set, 0, 0, SET_BYTES) as i64;
        if signal == SIGTERM as i64 || signal == SIGINT as i64 {
            call(number::EXIT_GROUP, 0, 0, 0, 0);
        }
        while call(number::WAIT4, ANY_CHILD, 0, WNOHANG, 0) > 0 {}
    }
}

/// The kernel jumps here; the stack needs no reading, there are no arguments.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    hold()
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    call(number::EXIT_GROUP, 2, 0, 0, 0);
    loop {}
}
