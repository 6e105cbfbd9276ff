//! The POST of a report: bounded in time and size, no redirects, no retries.

use std::convert::Infallible;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::Url;
use crate::log::{Event, Log};

/// The longest that one POST may take, name lookup and answer included. Below the least sensible interval, and long for a
/// receiver that has nothing to compute.
const LIMIT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read; what it says does not matter.
const ANSWER: u64 = 64 << 10;

/// Sends reports; a thread of its own, because nothing can interrupt a POST under way.
#[derive(Debug)]
pub struct Poster {
    url: Url,
    log: Log,
    reports: Receiver<String>,
    limit: Duration,
    /// Dropped with the poster, which tells the reporter.
    _posting: Sender<Infallible>,
}

impl Poster {
    pub(super) fn new(url: Url, log: Log, reports: Receiver<String>, posting: Sender<Infallible>) -> Self {
        Self { url, log, reports, limit: LIMIT, _posting: posting }
    }

    /// Bounds a POST by less than the usual ten seconds.
    #[cfg(test)]
    pub(super) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Posts until the reporter is gone. Nobody needs to wait for it: at the end of the program it may be left behind.
    pub fn run(self) {
        let agent = agent(&self.url, self.limit);
        let mut failing = false;
        for report in &self.reports {
            let result = post(&agent, &self.url, &report);
            let failed = result.is_err();
            match result {
                Err(error) => self.log.event(Event::ReportFailed { error }),
                Ok(()) if failing => self.log.event(Event::ReportRecovered),
                Ok(()) => {}
            }
            failing = failed;
        }
    }
}

fn agent(url: &Url, limit: Duration) -> Agent {
    let mut config = Agent::config_builder()
        .timeout_global(Some(limit))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .max_response_header_size(16 << 10)
        .user_agent(concat!("processor/", env!("CARGO_PKG_VERSION")));
    if url.reveal().to_ascii_lowercase().starts_with("https:") {
        // The system's authorities, so that an operator's own one counts; Mozilla's where the system has none.
        let system = rustls_native_certs::load_native_certs().certs;
        let roots: Vec<_> = system.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect();
        if !roots.is_empty() {
            config = config.tls_config(TlsConfig::builder().root_certs(RootCerts::from(roots)).build());
        }
    }
    config.build().new_agent()
}

/// Posts one report. The error names the place without its password.
fn post(agent: &Agent, url: &Url, report: &str) -> Result<(), String> {
    let fault = |error: ureq::Error| {
        let text = url.login().mask(&error.to_string());
        format!("POST {url}: {text}")
    };
    let request = agent.post(url.reveal()).header("Content-Type", "application/json");
    let mut answer = request.send(report).map_err(fault)?;
    let status = answer.status();
    if !status.is_success() {
        let redirect = if status.is_redirection() { "; redirects are not followed" } else { "" };
        return Err(format!("POST {url}: the receiver answered {status}{redirect}"));
    }
    // Reading the answer lets the receiver end its side in order; whether it can be read changes nothing.
    let _ = answer.body_mut().with_config().limit(ANSWER).read_to_vec();
    Ok(())
}
