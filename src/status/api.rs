//! `/api/status`: the same numbers as one JSON object, for the page, for `processor top` and for scripts. Pure.
//!
//! Members are a contract: add, never rename. Sizes are bytes, spans seconds, moments seconds since 1970.

use serde_json::{Value, json};

use super::history::{self, History};
use super::ledger;
use super::metrics::Moment;
use crate::log::Lang;
use crate::log::recent::{Fault, File, Recent};
use crate::stats::{Chain, Flow, Number, Stats};

/// The object.
pub fn object(stats: &Stats, moment: &Moment<'_>, history: &History, recent: &Recent) -> Value {
    let about = moment.about;
    json!({
        "now": moment.epoch,
        "version": about.version,
        "commit": about.commit,
        "source": about.source,
        "host": about.host,
        "dataDir": about.data_dir,
        "pid": about.pid,
        "runSecs": moment.run.as_secs_f64(),
        "cpuSecs": moment.usage.cpu.as_secs_f64(),
        "residentBytes": moment.usage.resident_bytes,
        "ready": moment.checks.iter().all(|check| check.fault.is_none()),
        "checks": moment.checks.iter().map(|check| json!({
            "name": check.name, "ok": check.fault.is_none(),
            "text": check.fault.as_ref().map(|fault| &fault.en), "textZh": check.fault.as_ref().map(|fault| &fault.zh),
        })).collect::<Vec<_>>(),
        "sourceUp": stats.source_runs.get() > 0,
        "read": flow(&stats.read),
        "written": flow(&stats.written),
        "rejectedLines": stats.rejected.lines.get(),
        "headerLines": stats.header_lines.get(),
        "badLines": stats.bad_lines.get(),
        "lostLines": stats.lost_lines(),
        "droppedLines": stats.dropped.lines.get(),
        "spool": spool(stats, moment),
        "upload": upload(stats, moment),
        "queues": queues(stats),
        "losses": ledger::losses(stats).iter().map(|loss| json!({
            "where": loss.place, "unit": loss.unit, "count": loss.count,
        })).collect::<Vec<_>>(),
        "children": children(&stats.chain, about.source == "pmacct"),
        "files": recent.files().iter().map(file).collect::<Vec<_>>(),
        "faults": recent.faults().iter().map(fault).collect::<Vec<_>>(),
        "history": points(history),
    })
}

/// `up` is null where no daemon is supervised.
fn children(chain: &Chain, supervised: bool) -> Value {
    let child = |name: &str, up: &Number, restarts: &Number| json!({ "name": name, "up": supervised.then_some(up.get() > 0), "restarts": restarts.get() });
    json!([
        child("pmacctd", &chain.exporter_up, &chain.exporter_restarts),
        child("nfacctd", &chain.collector_up, &chain.collector_restarts),
    ])
}

fn flow(flow: &Flow) -> Value {
    json!({
        "lines": flow.lines.get(),
        "lineBytes": flow.bytes.get(),
        "packets": flow.packets.get(),
        "bytes": flow.octets.get(),
    })
}

fn spool(stats: &Stats, moment: &Moment<'_>) -> Value {
    let files = stats.spool_files.get();
    json!({
        "files": files,
        "bytes": stats.spool_bytes.get(),
        "oldestSecs": moment.disk.oldest_age(files, moment.epoch).map(|age| age.as_secs()),
        "limitBytes": moment.about.spool_limit,
        "freeBytes": moment.disk.free_bytes,
        "openBytes": stats.open_bytes.get(),
        "full": stats.spool_full.get() > 0,
        "failing": stats.spool_failing.get() > 0,
        "tornFiles": stats.torn_files.get(),
        "tornBytes": stats.torn_bytes.get(),
        "sealedFiles": stats.sealed_files.get(),
        "sealedBytes": stats.sealed_bytes.get(),
    })
}

fn upload(stats: &Stats, moment: &Moment<'_>) -> Value {
    let last = stats.last_upload.get();
    json!({
        "to": moment.about.upload_to,
        "intervalSecs": moment.about.upload_interval.map(|interval| interval.as_secs()),
        "files": stats.uploaded_files.get(),
        "bytes": stats.uploaded_bytes.get(),
        "failures": stats.upload_failures.get(),
        "lastSuccess": (last > 0).then_some(last),
    })
}

fn queues(stats: &Stats) -> Value {
    let queues = &stats.queues;
    let queues = [("blocks", &queues.blocks), ("pack", &queues.pack), ("spool", &queues.spool)];
    let queue = |(name, queue): (&str, &crate::stats::Backlog)| json!({ "name": name, "length": queue.length.get(), "capacity": queue.capacity.get() });
    queues.map(queue).to_vec().into()
}

fn file(file: &File) -> Value {
    json!({
        "name": file.name,
        "fate": file.fate.name(),
        "at": file.at.timestamp(),
        "rawBytes": file.raw_bytes,
        "bytes": file.bytes,
        "error": file.error,
    })
}

fn fault(fault: &Fault) -> Value {
    json!({
        "at": fault.at.timestamp(),
        "count": fault.count,
        "level": fault.event.level().name(),
        "event": fault.event.name(),
        "zh": fault.event.message(Lang::Zh),
        "en": fault.event.message(Lang::En),
    })
}

/// Columns, because a list of objects would repeat four names for every point.
fn points(history: &History) -> Value {
    let column = |of: fn(&history::Point) -> u64| history.points().map(of).collect::<Vec<_>>();
    json!({
        "stepSecs": history::STEP.as_secs(),
        "lines": column(|point| point.lines),
        "packets": column(|point| point.packets),
        "bytes": column(|point| point.octets),
        "spoolBytes": column(|point| point.spool_bytes),
    })
}
