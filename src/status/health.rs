//! Is it ready: the source alive, the spool under its limit, the last upload young enough. Pure.

use std::time::Duration;

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The source is being read.
    pub source_runs: bool,
    /// Interfaces of the capture that are not there or down.
    pub interfaces_away: u64,
    /// The spool waits for room.
    pub spool_full: bool,
    /// The disk refuses writes.
    pub spool_failing: bool,
    /// Sealed files that wait.
    pub waiting: u64,
    /// How long the oldest of them has been sealed; `None` when that is not known.
    pub oldest: Option<Duration>,
    /// `None` when nothing is uploaded.
    pub upload: Option<Upload>,
}

/// The uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    /// Time between two passes.
    pub interval: Duration,
    /// Since the last success, or since the start when there was none.
    pub since_success: Duration,
}

/// One readiness check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its stable name.
    pub name: &'static str,
    /// Why it is not so; `None` when it is.
    pub fault: Option<Fault>,
}

/// Why something is not as it must be, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In English.
    pub en: String,
    /// In Chinese.
    pub zh: String,
}

impl Fault {
    fn new(en: impl Into<String>, zh: impl Into<String>) -> Self {
        Self { en: en.into(), zh: zh.into() }
    }
}

/// How late an upload may be: a pass at every interval, a second one when the first met trouble, and a minute for the
/// transfer.
pub fn patience(interval: Duration) -> Duration {
    interval * 2 + Duration::from_mins(1)
}

/// All checks, in the order in which lines pass them.
pub fn checks(facts: &Facts) -> [Check; 3] {
    let source = if !facts.source_runs {
        let en = "nothing is read: the input has ended, or the program stops";
        Some(Fault::new(en, "没有读取数据: 输入已结束，或程序正在停止"))
    } else if facts.interfaces_away > 0 {
        let away = facts.interfaces_away;
        let en = format!("interfaces that are not there or down: {away}; they are waited for");
        Some(Fault::new(en, format!("有 {away} 个网络接口不存在或已停用，正在等待其恢复")))
    } else {
        None
    };
    let spool = match (facts.spool_full, facts.spool_failing) {
        (true, _) => Some(Fault::new(
            "the data directory is full; reading stops until there is room",
            "数据目录已满；腾出空间之前停止读取",
        )),
        (_, true) => Some(Fault::new("the disk refuses writes; they are tried again", "磁盘拒绝写入；正在重试")),
        _ => None,
    };
    let upload = facts.upload.and_then(|upload| late(facts, upload));
    [("source", source), ("spool", spool), ("upload", upload)].map(|(name, fault)| Check { name, fault })
}

/// Files wait, nothing was delivered lately, and the oldest has waited longer than passes need.
fn late(facts: &Facts, upload: Upload) -> Option<Fault> {
    let patience = patience(upload.interval);
    let oldest = facts.oldest.filter(|oldest| *oldest > patience)?;
    (facts.waiting > 0 && upload.since_success > patience).then(|| {
        let (files, since) = (facts.waiting, upload.since_success.as_secs());
        let oldest = oldest.as_secs();
        Fault::new(
            format!("no file was uploaded for {since} s; {files} wait, the oldest for {oldest} s; see the log's last ERROR"),
            format!("已有 {since} 秒没有文件上传成功；{files} 个文件等待中，最旧的已等待 {oldest} 秒；原因见日志中最后一条 ERROR"),
        )
    })
}

/// The body of `/readyz`: one line a check.
pub fn text(checks: &[Check]) -> String {
    let line = |check: &Check| match &check.fault {
        None => format!("{}: ok\n", check.name),
        Some(fault) => format!("{}: not ok: {}\n", check.name, fault.en),
    };
    checks.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Facts = Facts {
        source_runs: true,
        interfaces_away: 0,
        spool_full: false,
        spool_failing: false,
        waiting: 0,
        oldest: None,
        upload: Some(Upload { interval: Duration::from_mins(10), since_success: Duration::from_hours(9) }),
    };

    fn faulty(facts: &Facts) -> Vec<&'static str> {
        checks(facts).iter().filter(|check| check.fault.is_some()).map(|check| check.name).collect()
    }

    #[test]
    fn each_fault_has_its_name() {
        assert_eq!(text(&checks(&WELL)), "source: ok\nspool: ok\nupload: ok\n");
        assert_eq!(faulty(&Facts { source_runs: false, ..WELL }), ["source"]);
        assert_eq!(faulty(&Facts { interfaces_away: 1, ..WELL }), ["source"]);
        assert_eq!(faulty(&Facts { spool_full: true, ..WELL }), ["spool"]);
        assert_eq!(faulty(&Facts { spool_failing: true, ..WELL }), ["spool"]);
        let body = text(&checks(&Facts { spool_full: true, ..WELL }));
        assert!(body.contains("spool: not ok: the data directory is full"), "{body}");
    }

    #[test]
    fn uploads_are_late_only_while_files_wait_in_vain() {
        let oldest = |secs| Facts { waiting: 3, oldest: Some(Duration::from_secs(secs)), ..WELL };
        assert_eq!(faulty(&oldest(1261)), ["upload"]);
        assert!(faulty(&oldest(1260)).is_empty(), "a quiet night is no fault of the uploader");
        let interval = Duration::from_mins(10);
        let since_success = Duration::from_secs(30);
        let draining = Facts { upload: Some(Upload { interval, since_success }), ..oldest(9999) };
        assert!(faulty(&draining).is_empty(), "a backlog that shrinks is being worked on");
        assert!(faulty(&Facts { upload: None, ..oldest(9999) }).is_empty());
    }
}
