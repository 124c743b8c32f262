//! What kind of machine this is: read once, and again where it may change.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that are usable.
    pub cpus: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the file system that holds the state directory.
    pub storage: u64,
    /// `amd64`
    pub architecture: String,
    /// `uname -r`
    pub kernel: String,
    /// `PRETTY_NAME` of the operating system.
    pub os_image: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Stays.
    pub machine_id: String,
}

impl Machine {
    /// Reads /proc and the file system of `state`. What cannot be read stays empty.
    pub fn read(state: &std::path::Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let memory = text("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
            * 1024;
        let storage = rustix::fs::statvfs(state).map_or(0, |stat| stat.f_blocks * stat.f_frsize);
        let os_image = text("/etc/os-release")
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME=").map(|name| name.trim_matches('"').to_owned()))
            .unwrap_or_else(|| "Balsa".to_owned());
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory,
            storage,
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned(),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            machine_id: text("/etc/machine-id"),
        }
    }

    /// `status.capacity`, in Kubernetes' writing.
    pub fn capacity(&self, max_pods: u32) -> BTreeMap<String, String> {
        let kibi = |bytes: u64| format!("{}Ki", bytes / 1024);
        [
            ("cpu".to_owned(), self.cpus.to_string()),
            ("memory".to_owned(), kibi(self.memory)),
            ("ephemeral-storage".to_owned(), kibi(self.storage)),
            ("hugepages-2Mi".to_owned(), "0".to_owned()),
            ("pods".to_owned(), max_pods.to_string()),
        ]
        .into()
    }
}

/// The address with which this machine reaches others: that of the default route's interface. No packet is sent.
pub fn own_address() -> IpAddr {
    let address = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Bytes of memory that are free for use; `None` where the system does not say.
pub fn memory_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kibi: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse().ok())?;
    Some(kibi * 1024)
}
