//! Valid settings that are probably mistakes: said by `processor check`, never by the log, because an operator may want it so.

use std::net::IpAddr;
use std::time::Duration;

use super::Config;
use crate::remote::ftp::Tls;

/// How long a container's engine waits between SIGTERM and SIGKILL, if it is not told otherwise.
const CONTAINER_STOP: Duration = Duration::from_secs(10);

/// Rows pack to about a quarter of their size with the worst of encoders.
const PACKED: u64 = 4;

impl Config {
    /// One line a trap.
    pub fn traps(&self) -> Vec<String> {
        [self.shared_prefix(), self.plain_login(), self.small_spool(), self.open_page(), self.slow_stop()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn shared_prefix(&self) -> Option<String> {
        let alone = self.ftp.is_none() || self.spool.prefix.contains(&super::file_name_part(&self.host));
        (!alone).then(|| {
            let prefix = &self.spool.prefix;
            format!(
                "processor_file_prefix: {prefix} is the same on every probe; where several share a directory on the server, \
                 files can get the same name: {prefix}{{host}}_ tells them apart"
            )
        })
    }

    fn plain_login(&self) -> Option<String> {
        let ftp = self.ftp.as_ref()?;
        let local = ftp.host.parse().is_ok_and(|address: IpAddr| address.is_loopback()) || ftp.host == "localhost";
        (ftp.tls == Tls::Off && !local).then(|| {
            "processor_ftp_tls: off sends the password and every file readable for the whole way; explicit does not"
                .to_owned()
        })
    }

    /// Full files between two passes, against the limit of the spool.
    fn small_spool(&self) -> Option<String> {
        let (limit, _) = (self.spool.max_bytes?, self.ftp.as_ref()?);
        let (upload, rotate) = (self.uploader.interval.as_secs(), self.pipeline.rotate_interval.as_secs().max(1));
        let files = upload.div_ceil(rotate) + 1;
        let bytes = files.saturating_mul(self.pipeline.rotate_bytes) / PACKED;
        (bytes > limit).then(|| {
            format!(
                "processor_spool_max_mb: {} may be full before the next upload pass: {files} files of \
                 processor_rotate_size_mb fall between two passes, about {} MiB packed; upload more often or allow more",
                limit / super::MIB,
                bytes / super::MIB
            )
        })
    }

    fn open_page(&self) -> Option<String> {
        let address = self.metrics_listen.filter(|address| !address.ip().is_loopback())?;
        Some(format!(
            "processor_metrics_listen: {address} has no password: whoever reaches it can read the numbers, file names and \
             last errors; 127.0.0.1 and an SSH tunnel keep it to those who may log in"
        ))
    }

    fn slow_stop(&self) -> Option<String> {
        let limit = self.shutdown_timeout;
        (limit + Duration::from_secs(1) >= CONTAINER_STOP).then(|| {
            format!(
                "processor_shutdown_timeout_sec: {} is longer than the 10 s after which docker stop kills; there, give the \
                 container a longer stop time-out",
                limit.as_secs()
            )
        })
    }
}
