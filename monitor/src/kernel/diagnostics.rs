//! What the kernel programs say about themselves, for those who look for a fault in them.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

use super::KernelError;

/// Level that the programs are loaded with when nobody listens; their log calls are then dead code
/// that the kernel leaves out.
pub const OFF: u8 = 0;
/// Level at which everything is said.
pub const ALL: u8 = log::Level::Trace as u8;

/// Lines from the kernel programs to standard error.
pub struct Diagnostics(EbpfLogger<StandardError>);

impl Diagnostics {
    /// Takes the programs' log ring.
    ///
    /// # Errors
    /// When the object has none.
    pub fn of(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        EbpfLogger::init_with_logger(ebpf, StandardError)
            .map(Self)
            .map_err(|_| KernelError::MissingMap("AYA_LOGS"))
    }

    /// Writes what has come since the last time.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = record.level().as_str().to_lowercase();
        eprintln!("mcp-monitor: kernel program: {level}: {}", record.args());
    }

    fn flush(&self) {}
}
