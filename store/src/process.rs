//! Memory, CPU time and files of this process, under the names of Prometheus' own client libraries: etcdctl's
//! `check datascale` asks for them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks per second in `/proc`: fixed on Linux, whatever the kernel's own are.
const TICKS: f64 = 100.0;

/// Reads the figures when they are asked for.
#[derive(Debug)]
pub struct Figures;

/// A figure of `/proc/self/status`, bytes.
fn bytes(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<i64>().ok()? * 1024)
}

/// User and system time of `/proc/self/stat`, seconds. The second field may hold anything, but ends with the last `)`.
fn cpu(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

/// The soft limit of open files in `/proc/self/limits`.
fn open_files(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let status = read("status");
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", bytes(&status, "VmRSS")),
            ("process_virtual_memory_bytes", "Virtual memory", bytes(&status, "VmSize")),
            ("process_open_fds", "Open files", i64::try_from(files).ok()),
            ("process_max_fds", "Most open files", open_files(&read("limits"))),
        ] {
            if let Some(value) = value {
                ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        if let Some(seconds) = cpu(&read("stat")) {
            let shown = encoder.encode_descriptor("process_cpu_seconds", "CPU time", None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(shown)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_the_kernel_prints() {
        assert_eq!(bytes("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS"), Some(2 << 20));
        assert_eq!(bytes("Name:\tx\n", "VmRSS"), None);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(cpu(stat), Some(2.0));
        assert_eq!(open_files("Limit  Soft\nMax open files            1024                 4096                 files\n"), Some(1024));
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Figures));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("process_resident_memory_bytes ") && text.contains("process_cpu_seconds_total "), "{text}");
    }
}
