//! Every event that an operator can meet, once: its level, its stable name, its fields, and its text in both languages.
//!
//! An entry reads
//!
//! ```text
//! Level Variant "stable_name" [per(subject fields)] { field: Type, … }
//!     zh "text with {field}"
//!     en "text with {field}"
//!     [=> { shown = expression of the fields }]
//! ```
//!
//! `per(…)` marks a fault that may come in a flood: the same event with the same subject is said once a minute with its
//! count; `per()` without fields knows one subject only. A [`Duration`] shows as seconds without a unit, and its JSON
//! field ends in `_sec`. Names and fields of the JSON form are a contract: add, never rename.

use std::path::PathBuf;
use std::time::Duration;

use super::line::json_string;
use super::{Lang, Level};

/// What the catalogue says of one kind of event.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The stable name in the JSON form.
    pub name: &'static str,
    /// How much it matters.
    pub level: Level,
    /// Its template in Chinese.
    pub zh: &'static str,
    /// Its template in English.
    pub en: &'static str,
}

macro_rules! catalogue {
    ($(
        $(#[$doc:meta])*
        $level:ident $variant:ident $name:literal $(per($($subject:ident),*))? $({
            $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)?
        })?
            zh $zh:literal
            en $en:literal
            $(=> { $($shown:ident = $expression:expr),* $(,)? })?
    )*) => {
        /// Something that an operator can meet in the log.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "a field's name and type say what it is; units are in the name or documented")]
        pub enum Event {
            $($(#[$doc])* $variant $({ $($(#[$field_doc])* $field: $type),* })?),*
        }

        impl Event {
            /// The whole catalogue, in its own order.
            pub const CATALOGUE: &'static [Entry] =
                &[$(Entry { name: $name, level: Level::$level, zh: $zh, en: $en }),*];

            /// The stable name in the JSON form.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name),* }
            }

            /// How much it matters.
            pub fn level(&self) -> Level {
                match self { $(Self::$variant { .. } => Level::$level),* }
            }

            /// The text; foreign characters in it are not escaped yet.
            #[allow(unused_variables, clippy::useless_format, reason = "not every text shows every field")]
            pub fn message(&self, lang: Lang) -> String {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        $($(let $shown = $expression;)*)?
                        $($(let $field = $field.text();)*)?
                        match lang { Lang::Zh => format!($zh), Lang::En => format!($en) }
                    })*
                }
            }

            /// Names and JSON values of the fields.
            pub(super) fn fields(&self) -> Vec<(String, String)> {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        vec![$($((Field::name($field, stringify!($field)), Field::json($field))),*)?]
                    })*
                }
            }

            /// What the event is about, for events that are summed up; `None` for those that are always said.
            #[allow(unused_variables, unreachable_code, reason = "most events are not summed up")]
            pub(super) fn subject(&self) -> Option<String> {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        $(let subject: &[String] = &[$(Field::text($subject)),*];
                        return Some(subject.join("\n"));)?
                        None
                    })*
                }
            }

            /// One of each, for tests of the whole catalogue.
            #[cfg(test)]
            pub(crate) fn samples() -> Vec<Self> {
                vec![$(Self::$variant $({ $($field: Field::sample()),* })?),*]
            }
        }
    };
}

catalogue! {
    // Start and configuration.

    /// The configuration was read and is whole.
    Info ConfigLoaded "config_loaded" { /** `host:port`, or `none` without upload. */ ftp: String, rotate_interval: Duration, /** MiB. */ rotate_mb: u64, upload_interval: Duration }
        zh "配置加载成功: FTP={ftp}, 滚动间隔={rotate_interval}s, 滚动大小={rotate_mb}MB, 上传间隔={upload_interval}s"
        en "configuration loaded: FTP={ftp}, rotate interval={rotate_interval}s, rotate size={rotate_mb}MB, upload interval={upload_interval}s"

    /// The configuration works, but something in it does nothing or not what it seems.
    Warn ConfigWarning "config_warning" { path: PathBuf, /** 0 when it is about no line. */ line: u64, text: String }
        zh "配置警告 {place}: {text}"
        en "configuration {place}: {text}"
        => { place = place(path, *line) }

    /// A `processor_*` key that this program does not know.
    Warn UnknownKey "unknown_key" { path: PathBuf, line: u64, key: String, /** The known key that is written most alike. */ nearest: &'static str }
        zh "配置警告 {path}:{line}: 未知的配置项 {key}，已忽略；最接近的是 {nearest}"
        en "configuration {path}:{line}: unknown key {key} is ignored; the nearest known one is {nearest}"

    /// An unknown key that may be a secret's, misspelt. Nothing of its line is shown.
    Warn UnknownSecretKey "unknown_secret_key" { path: PathBuf, line: u64, /** The known key that is written most alike. */ nearest: &'static str }
        zh "配置警告 {path}:{line}: 未知的配置项，可能是 {nearest} 的误写；该行可能含有密码，故不显示其内容，并已忽略"
        en "configuration {path}:{line}: an unknown key, perhaps {nearest} misspelt, is ignored; the line may hold a password, so nothing of it is shown"

    /// A line that may hold a part of a password goes to nobody.
    Warn LineWithheld "line_withheld" { path: PathBuf, line: u64 }
        zh "配置警告 {path}:{line}: 未知的配置项，可能含有密码或上一行密码的剩余部分；不显示其内容，也不交给 pmacct 的程序"
        en "configuration {path}:{line}: an unknown key that may be a password's, or the rest of the one before; the line is neither shown nor passed on to pmacct's daemons"

    /// A key that stands more than once; the last one counts.
    Warn DuplicateKey "duplicate_key" { path: PathBuf, line: u64, key: &'static str, /** Line of the one that is ignored. */ ignored_line: u64 }
        zh "配置警告 {path}:{line}: {key} 重复出现，以此行为准，忽略第 {ignored_line} 行"
        en "configuration {path}:{line}: {key} stands twice; this one counts, line {ignored_line} is ignored"

    /// The configuration file holds a password that others may read.
    Warn ConfigPublic "config_public" { path: PathBuf }
        zh "配置文件 {path} 含有密码，但其他用户可以读取；请执行 chmod 600 {path}"
        en "{path} holds a password and others may read it; run chmod 600 {path}"

    /// The program is up.
    Info Started "started" { version: String, source: String, pid: u64 }
        zh "processor {version} 已启动，数据来源: {source}，进程号: {pid}"
        en "processor {version} started, source: {source}, pid: {pid}"

    /// The data directory is ours and can be written.
    Info DataDirReady "data_dir_ready" { path: PathBuf }
        zh "数据目录已就绪: {path}"
        en "data directory ready: {path}"

    /// Everybody on the machine may write into the data directory.
    Warn DataDirPublic "data_dir_public" { path: PathBuf }
        zh "数据目录 {path} 允许所有用户写入；请执行 chmod o-w {path}"
        en "everybody may write into the data directory {path}; run chmod o-w {path}"

    // Reading and checking.

    /// The input has no more.
    Info InputEnded "input_ended"
        zh "输入已结束，正在封存文件"
        en "input ended, sealing the file"

    /// Lines whose columns are not the header's.
    Warn BadLines "bad_lines" per(reason) { count: u64, /** Number of the first one since the start, from 1. */ first_line: u64, reason: String }
        zh "发现 {count} 行异常数据，首行号 {first_line}: {reason}"
        en "{count} bad lines, the first is line {first_line}: {reason}"

    /// The header changed while the program ran.
    Warn HeaderChanged "header_changed" per() { line: u64, old: String, new: String }
        zh "第 {line} 行的表头发生变化: {old} -> {new}"
        en "the header changed at line {line}: {old} -> {new}"

    /// The rejects directory is at its bound; rejected lines are only counted from here on.
    Warn RejectsFull "rejects_full" per(path) { path: PathBuf, /** Bytes. */ limit: u64 }
        zh "{path} 已达上限 {limit}；后续异常行只计数，不再保存"
        en "{path} is at its limit of {limit}; further rejected lines are counted and not kept"
        => { limit = megabytes(*limit) }

    /// A check found that the field-aware encoder had failed; the batch was packed again by zlib.
    Error EncoderFailed "encoder_failed" { /** The first line of the batch. */ line: u64 }
        zh "自检发现按字段编码器在第 {line} 行起的数据上出错；已用 zlib 重新压缩，没有数据受损，此后改用 zlib。请报告此问题"
        en "a check found the field-aware encoder wrong on the data from line {line}; it was packed again by zlib, nothing is damaged, and zlib packs from here on. Please report this"

    /// Rejected lines could not be kept; they are only counted.
    Error RejectsFailed "rejects_failed" per(path, error) { path: PathBuf, error: String }
        zh "无法保存异常行到 {path}: {error}；仅计数"
        en "rejected lines cannot be kept in {path}: {error}; they are only counted"

    // Embedded capture.

    /// Embedded capture runs.
    Info CaptureStarted "capture_started" { /** Interfaces or the file. */ input: String, /** The most flows that a table holds. */ max_flows: u64, /** Length of a window. */ window: Duration }
        zh "开始抓包: {input}，流表上限 {max_flows} 条，每 {window}s 输出一次"
        en "capturing on {input}: up to {max_flows} flows, rows every {window} s"

    /// pmacct keys that embedded capture does not use.
    Info CaptureUnusedKeys "capture_unused_keys" { path: PathBuf, keys: String }
        zh "{path} 中以下 pmacct 配置项在内置抓包模式下不起作用: {keys}"
        en "{path}: not used by capture: {keys}"

    /// The kernel dropped packets because the ring was full.
    Warn CaptureDropped "capture_dropped" per(interface) { interface: String, packets: u64 }
        zh "{interface}: 内核丢弃了 {packets} 个数据包（抓包缓冲区已满）"
        en "{interface}: the kernel dropped {packets} packets because the capture buffer was full"

    /// An interface is down; capture waits for it.
    Warn CaptureDown "capture_down" per(interface) { interface: String, error: String }
        zh "{interface} 已停用 ({error})，等待其恢复"
        en "{interface} is down ({error}); capture goes on when it is up again"

    /// Packets come again from an interface that was down.
    Info CaptureUp "capture_up" { interface: String }
        zh "{interface} 已恢复，继续抓包"
        en "{interface} is up again"

    /// How many of an interface's packets one of its threads had, at the end.
    Info CaptureShare "capture_share" { interface: String, thread: u64, packets: u64 }
        zh "{interface}: 线程 {thread} 收到 {packets} 个数据包"
        en "{interface}: thread {thread} had {packets} packets"

    /// A capture file ends in the middle of a packet.
    Warn CaptureFileCut "capture_file_cut" { path: String }
        zh "{path} 在一个数据包中间结束，此前的数据包均已统计"
        en "{path} ends in the middle of a packet; everything before it is counted"

    /// Embedded capture has ended and printed all it had.
    Info CaptureEnded "capture_ended" { seen: u64, decoded: u64, rejected: u64, dropped: u64, rows: u64, evicted: u64, split_windows: u64, files: u64, failed_files: u64 }
        zh "抓包结束: 收到 {seen} 个数据包，统计 {decoded} 个，无法统计 {rejected} 个，内核丢弃 {dropped} 个，输出 {rows} 行；流表满提前结束 {evicted} 条流，窗口提前输出 {split_windows} 次；文件 {files} 个，失败 {failed_files} 个"
        en "capture ended: {seen} packets seen, {decoded} counted, {rejected} not countable, {dropped} dropped by the kernel, {rows} rows; {evicted} flows ended early by a full table, {split_windows} windows printed early; {files} files, {failed_files} failed"

    /// What was not counted, by reason, at the end.
    Info CaptureUncounted "capture_uncounted" { /** Each reason that occurred, with its number. */ reasons: String, not_ip: u64, cut_by_snaplen: u64, short_frame: u64, bad_ip_version: u64, bad_length: u64, unknown_link_type: u64, filtered: u64, unsampled: u64 }
        zh "未统计的数据包: {reasons}"
        en "packets not counted: {reasons}"

    /// The flow table is full: flows are ended before their time.
    Warn CaptureTableFull "capture_table_full" per() { /** Flows ended early since it was last looked at. */ evicted: u64, /** The most flows of a table. */ max_flows: u64, bytes_a_flow: u64 }
        zh "流表已满 ({max_flows} 条): {evicted} 条流被提前结束，数据行和上传量会增多；请增大 nfprobe_maxflows（每条流约 {bytes_a_flow} 字节内存）或缩短 nfprobe_timeouts"
        en "the flow table is full ({max_flows} flows): {evicted} were ended early, so rows and uploads grow; raise nfprobe_maxflows (about {bytes_a_flow} bytes of memory a flow) or shorten nfprobe_timeouts"

    /// An interface is not there; capture waits for it.
    Warn CaptureLost "capture_lost" per(interface) { interface: String, error: String }
        zh "{interface} 不可用 ({error})，等待其出现后重新打开"
        en "{interface} is not there ({error}); it is opened again when it is"

    /// An interface that was not there is captured again.
    Info CaptureFound "capture_found" { interface: String, /** How long it was not there. */ away: Duration }
        zh "{interface} 已重新打开，缺失 {away}s，继续抓包"
        en "{interface} is there again after {away} s and captured"

    /// A link type of capture files that is not decoded.
    Warn CaptureLinkType "capture_link_type" { /** The first of the files. */ path: String, link_type: u64, files: u64 }
        zh "{path} 的链路类型 {link_type} 不受支持，其数据包不会统计（共 {files} 个文件）"
        en "{path}: link type {link_type} is not decoded; its packets are not counted (files: {files})"

    /// A capture file cannot be read, or not to its end.
    Warn CaptureFileFailed "capture_file_failed" { path: String, error: String }
        zh "{path} 无法读取: {error}；已跳过，结束时返回 1"
        en "{path} cannot be read on: {error}; passed over, the exit code will be 1"

    /// A capture file of which nothing could be counted.
    Warn CaptureFileUncounted "capture_file_uncounted" { path: String, packets: u64, /** Each reason with its number. */ reasons: String }
        zh "{path} 的 {packets} 个数据包均无法统计: {reasons}"
        en "{path}: none of its {packets} packets could be counted: {reasons}"

    /// Stamps that no row can show.
    Warn CaptureStampsBeyond "capture_stamps_beyond" { path: String, packets: u64 }
        zh "{path} 中 {packets} 个数据包的时间不在公元 0 至 9999 年内，按最近的时间统计"
        en "{path}: the stamps of {packets} packets are not within the years 0 to 9999; they were taken for the nearest"

    /// pmacct keys that change what is counted, which embedded capture does not do.
    Warn CaptureIgnoredKeys "capture_ignored_keys" { path: PathBuf, keys: String }
        zh "{path} 中以下 pmacct 配置项会改变统计内容，但内置抓包不支持，结果会不同: {keys}"
        en "{path}: these keys change what pmacct counts and are not used by capture, so the rows differ: {keys}"

    // Spool.

    /// A segment was sealed.
    Info FileRotated "file_rotated" { path: PathBuf, raw_bytes: u64, duration: Duration }
        zh "rotate file: {path} size={size} duration={duration}s"
        en "rotate file: {path} size={size} duration={duration}s"
        => { size = megabytes(*raw_bytes) }

    /// A `.part` of an earlier life was salvaged.
    Warn SegmentSalvaged "segment_salvaged" { path: PathBuf, lines: u64, /** Bytes of the torn tail. */ cut_bytes: u64 }
        zh "已修复上次未完成的文件: {path}，保留 {lines} 行，截去尾部 {cut_bytes} 字节"
        en "salvaged the file of an earlier run: {path}, {lines} lines kept, {cut_bytes} bytes of torn tail cut"

    /// Salvage takes long; said every few seconds.
    Info SalvageProgress "salvage_progress" { /** Bytes. */ done: u64, /** Bytes. */ total: u64 }
        zh "正在修复上次未完成的文件: 已处理 {done}，共 {total}"
        en "salvaging the files of an earlier run: {done} of {total} gone through"
        => { done = megabytes(*done), total = megabytes(*total) }

    /// The program ends before the salvage is done; nothing of the files is lost.
    Warn SalvagePutOff "salvage_put_off" { files: u64, /** Bytes. */ bytes: u64 }
        zh "程序正在退出，上次未完成的文件还有 {files} 个（{bytes}）未修复；下次启动时继续"
        en "the program ends: {files} files of an earlier run, {bytes}, are not salvaged yet; the next start goes on"
        => { bytes = megabytes(*bytes) }

    /// A `.part` of an earlier life cannot be salvaged yet; it is tried again.
    Error SegmentWaits "segment_waits" { path: PathBuf, error: String }
        zh "暂时无法修复上次未完成的文件: {path}: {error}；写入下一个文件前重试"
        en "the file of an earlier run cannot be salvaged now: {path}: {error}; tried again before the next file is opened"

    /// A `.part` of an earlier life does not come through whole and was moved out of the way, as it was; the lines that it
    /// gives are in a file of their own.
    Error SegmentSetAside "segment_set_aside" { path: PathBuf, kept_as: PathBuf, error: String }
        zh "上次未完成的文件无法完整修复: {path}: {error}；原文件保留为 {kept_as}"
        en "the file of an earlier run does not come through whole: {path}: {error}; it is kept as {kept_as}"

    /// The disk refused a write; it is tried again and nothing is lost meanwhile.
    Error SpoolWriteFailed "spool_write_failed" per(path, error) { path: PathBuf, error: String, retry_in: Duration }
        zh "写入失败: {path}: {error}；{retry_in}s 后重试"
        en "write failed: {path}: {error}; retry in {retry_in}s"

    /// The disk takes writes again.
    Info SpoolWriteRecovered "spool_write_recovered" { path: PathBuf }
        zh "写入恢复正常: {path}"
        en "writes work again: {path}"

    /// The data directory is at its limit, and reading stops until there is room.
    Warn SpoolFull "spool_full" per(path) { path: PathBuf, /** Bytes of our files. */ used: u64, /** Bytes free on the file system. */ free: u64 }
        zh "数据目录空间不足: {path}（已用 {used}，磁盘剩余 {free}），暂停读取"
        en "no room in the data directory: {path} (used {used}, free on disk {free}); reading stops until there is"
        => { used = megabytes(*used), free = megabytes(*free) }

    /// The oldest segment went to make room, as `processor_spool_full: drop-oldest` asks.
    Error SpoolDropped "spool_dropped" { path: PathBuf, bytes: u64, /** 0 when not known. */ lines: u64 }
        zh "数据目录空间不足，已丢弃最旧的文件: {path}（{bytes} 字节，{lines} 行）"
        en "no room in the data directory, dropped the oldest file: {path} ({bytes} bytes, {lines} lines)"

    /// There is room again.
    Info SpoolFree "spool_free" { path: PathBuf }
        zh "数据目录空间已恢复: {path}，继续读取"
        en "room in the data directory again: {path}; reading goes on"

    // Upload.

    /// The uploader runs.
    Info UploaderStarted "uploader_started" { interval: Duration }
        zh "FTP 上传器已启动，上传间隔: {interval}s"
        en "FTP uploader started, upload interval: {interval}s"

    /// `processor_upload: none`.
    Info UploadOff "upload_off" { path: PathBuf }
        zh "未启用上传，文件保留在 {path}"
        en "upload is off, files stay in {path}"

    /// The server has the file whole, and the local one is gone.
    Info Uploaded "uploaded" { name: String, bytes: u64, duration: Duration }
        zh "FTP 上传成功并删除本地文件: {name}"
        en "FTP upload done, local file deleted: {name}"

    /// The server had the file whole, and somebody took it away at once.
    Info UploadTaken "upload_taken" { name: String }
        zh "{name} 已完整送达，随即被服务器端取走，视为上传成功"
        en "{name} arrived whole and was taken away on the server at once; it counts as delivered"

    /// One file was not taken; it waits for the next pass.
    Error UploadFailed "upload_failed" per(name) { name: String, error: String }
        zh "FTP 上传失败: {name}: {error}"
        en "FTP upload failed: {name}: {error}"

    /// The server as a whole is out of reach; the pass ended.
    Error UploadPassFailed "upload_pass_failed" per(address, error) { address: String, error: String, retry_in: Duration }
        zh "FTP 服务器不可用: {address}: {error}；{retry_in}s 后重试"
        en "FTP server out of reach: {address}: {error}; retry in {retry_in}s"

    /// A pass that had something to do has ended.
    Debug UploadPassDone "upload_pass_done" { files: u64, bytes: u64, failed: u64, duration: Duration }
        zh "上传轮次完成: 成功 {files} 个文件（{bytes} 字节），失败 {failed} 个，用时 {duration}s"
        en "upload pass done: {files} files ({bytes} bytes) sent, {failed} failed, in {duration}s"

    // The supervised daemons.

    /// A daemon was started.
    Info DaemonStarted "daemon_started" { daemon: &'static str, path: PathBuf, pid: u64 }
        zh "{daemon} 已启动: {path}，进程号: {pid}"
        en "{daemon} started: {path}, pid: {pid}"

    /// The collector listens; the exporter may start.
    Info CollectorListens "collector_listens" { address: String, /** Usable bytes of its receive buffer; 0 when not known. */ buffer_bytes: u64 }
        zh "nfacctd 正在监听 {address}，接收缓冲区 {buffer_bytes} 字节"
        en "nfacctd listens on {address}, receive buffer {buffer_bytes} bytes"

    /// The daemons' files differ from the operator's in these points.
    Info DaemonConfChanged "daemon_conf_changed" { path: PathBuf, changes: String }
        zh "由 {path} 生成 pmacctd 与 nfacctd 的配置，改动: {changes}"
        en "the configuration of pmacctd and nfacctd was made from {path}; changes: {changes}"

    /// A daemon says something.
    Info DaemonSays "daemon_says" { daemon: &'static str, text: String }
        zh "[{daemon}] {text}"
        en "[{daemon}] {text}"

    /// A daemon warns.
    Warn DaemonWarns "daemon_warns" per(daemon, text) { daemon: &'static str, text: String }
        zh "[{daemon}] {text}"
        en "[{daemon}] {text}"

    /// A daemon reports an error.
    Error DaemonFails "daemon_fails" per(daemon, text) { daemon: &'static str, text: String }
        zh "[{daemon}] {text}"
        en "[{daemon}] {text}"

    /// A daemon could not be started.
    Error DaemonStartFailed "daemon_start_failed" { daemon: &'static str, error: String }
        zh "{daemon} 启动失败: {error}"
        en "{daemon} cannot be started: {error}"

    /// A daemon's core process ended without being asked.
    Error DaemonDied "daemon_died" { daemon: &'static str, /** Exit code or signal. */ how: String, /** How long it ran. */ ran: Duration }
        zh "{daemon} 意外退出: {how}，运行 {ran}s"
        en "{daemon} ended by itself: {how}, after {ran}s"

    /// A daemon will be started again.
    Warn DaemonRestart "daemon_restart" { daemon: &'static str, /** Failures in a row. */ failures: u64, /** The failure that ends the program. */ limit: u64, restart_in: Duration }
        zh "{restart_in}s 后重新启动 {daemon}（连续失败 {failures} 次，达到 {limit} 次时程序退出）"
        en "{daemon} starts again in {restart_in}s ({failures} failures in a row; at {limit} the program ends)"

    /// A daemon did not end in time and was killed, with what it had not flushed.
    Warn DaemonKilled "daemon_killed" { daemon: &'static str }
        zh "{daemon} 未能按时退出，已强制结束；尚未输出的流记录丢失"
        en "{daemon} did not end in time and was killed; flows that it had not printed are lost"

    /// The daemon's version prints wrong times.
    Warn StaleStamps "stale_stamps" { version: String }
        zh "pmacct {version} 存在缺陷: 同一条流在后续窗口再次出现时 TIMESTAMP_MIN/MAX 可能是旧值；请升级到 1.7.8 或更高版本"
        en "pmacct {version} may print old TIMESTAMP_MIN/MAX when a flow comes back in a later window; 1.7.8 and later do not"

    /// The kernel grants less than was asked for.
    Warn ReceiveBufferSmall "receive_buffer_small" { /** Usable bytes. */ bytes: u64, wanted_bytes: u64 }
        zh "nfacctd 的接收缓冲区只有 {bytes} 字节（需要 {wanted_bytes}），流量突发时会丢失流记录；请在宿主机执行 sysctl -w net.core.rmem_max={wanted_bytes}"
        en "the receive buffer of nfacctd has {bytes} bytes ({wanted_bytes} wanted), so bursts lose flow records; run on the host: sysctl -w net.core.rmem_max={wanted_bytes}"

    /// Something on the way to the rows was lost.
    Warn ChainLoss "chain_loss" per(place) { /** Where: `capture`, `datagrams`, `sequence`, `templates`. */ place: &'static str, count: u64, /** Since the start. */ total: u64 }
        zh "采集链路丢失（{place}）: 新增 {count}，累计 {total}"
        en "lost before the rows ({place}): {count} more, {total} in all"

    /// The collector threw away a window because its writers waited for us.
    Error WindowLost "window_lost" per() { total: u64 }
        zh "nfacctd 的写进程已满，一个统计窗口被丢弃（累计 {total} 个）；输出读取过慢"
        en "nfacctd has no writer left and threw away a window ({total} in all): its output is read too slowly"

    /// The ring between a core and its plugin overflowed.
    Error RingOverflowed "ring_overflowed" per(daemon) { daemon: &'static str, text: String }
        zh "{daemon} 内部队列溢出，流记录丢失；请增大 plugin_pipe_size: {text}"
        en "{daemon} lost records between its own processes; raise plugin_pipe_size: {text}"

    /// Another process is bound to the collector's port and takes a share of the records.
    Error PortShared "port_shared" per(address) { address: String, /** Who, as far as it can be seen. */ who: String }
        zh "{address} 同时被其他进程占用（{who}），流记录会被分走"
        en "{address} is taken by another process too ({who}), which gets a share of the flow records"

    /// A row was cut short by the death of a daemon and left out.
    Warn RowTorn "row_torn" { bytes: u64 }
        zh "nfacctd 中断时有一行不完整（{bytes} 字节），已舍弃"
        en "a row was torn by the end of nfacctd ({bytes} bytes) and left out"

    // End of life.

    /// A signal asked for the end.
    Info StopRequested "stop_requested" { /** Number of the signal. */ signal: i32 }
        zh "收到信号 {signal}，正在退出；再次发送将立即退出"
        en "{signal} received, stopping; a second one leaves at once"
        => { signal = signal_name(*signal) }

    /// The last upload pass begins.
    Info Draining "draining" { files: u64, bytes: u64 }
        zh "退出前上传剩余文件: {files} 个，{size}"
        en "uploading what is left: {files} files, {size}"
        => { size = megabytes(*bytes) }

    /// The last upload pass takes long; said every few seconds.
    Info DrainProgress "drain_progress" { /** Files that still wait. */ left: u64, /** Files that waited when the pass began. */ total: u64, /** Bytes that still wait. */ bytes: u64 }
        zh "正在上传剩余文件: 还有 {left} 个，共 {total} 个，剩余 {size}"
        en "uploading what is left: {left} of {total} files still wait, {size}"
        => { size = megabytes(*bytes) }

    /// Files wait in the data directory for the next start.
    Warn FilesWait "files_wait" { files: u64 }
        zh "{files} 个文件尚未上传，保留在数据目录中等待下次启动"
        en "{files} files are not uploaded and wait in the data directory for the next start"

    /// The last upload pass was cut by `processor_shutdown_timeout_sec`.
    Warn DrainTimedOut "drain_timed_out" { limit: Duration }
        zh "退出前上传在 {limit}s 内未完成，已中止"
        en "the last upload pass did not end within {limit}s and was cut"

    /// Lines that were read are in no file, because the program had to end before the disk took them.
    Error LinesLost "lines_lost" { lines: u64 }
        zh "磁盘未能在退出期限内写完，{lines} 行已读取的数据未写入任何文件，已丢失"
        en "the disk did not take everything before the program had to end: {lines} lines that were read are in no file and lost"

    /// A stage failed for good; the program ends.
    Error StageFailed "stage_failed" { stage: &'static str, error: String }
        zh "{stage} 失败: {error}"
        en "{stage} failed: {error}"

    /// The last line: what passed in this run.
    Info Finished "finished" { lines_read: u64, lines_written: u64, lines_rejected: u64, header_lines: u64, lines_lost: u64, lines_dropped: u64, files_sealed: u64, files_uploaded: u64, files_waiting: u64, files_dropped: u64, duration: Duration }
        zh "已退出: 读取 {lines_read} 行 = 写入文件 {lines_written} + 隔离 {lines_rejected} + 略去表头 {header_lines} + 丢失 {lines_lost}；已写入的行中随旧文件丢弃 {lines_dropped} 行；生成文件 {files_sealed} 个，上传 {files_uploaded} 个，待上传 {files_waiting} 个，丢弃 {files_dropped} 个；运行 {duration}s"
        en "finished: {lines_read} lines read = {lines_written} in files + {lines_rejected} set aside + {header_lines} headers left out + {lines_lost} lost; of those in files {lines_dropped} dropped with old ones; {files_sealed} files sealed, {files_uploaded} uploaded, {files_waiting} waiting, {files_dropped} dropped; ran {duration}s"

    // Status report.

    /// A report was not taken; its numbers stay in the totals.
    Warn ReportFailed "report_failed" per(error) { error: String }
        zh "状态上报失败: {error}"
        en "status report failed: {error}"

    /// A report was taken after one that was not.
    Info ReportRecovered "report_recovered"
        zh "状态上报恢复正常"
        en "status reports work again"

    // Status.

    /// Metrics and the status page are served.
    Info StatusListening "status_listening" { /** `address:port`. */ address: String }
        zh "状态页与指标: http://{address}/"
        en "status page and metrics: http://{address}/"

    /// The address of `processor_metrics_listen` could not be listened on; everything else runs.
    Error StatusListenFailed "status_listen_failed" per(address, error) { address: String, error: String, retry_in: Duration }
        zh "无法监听 processor_metrics_listen: {address}: {error}；{retry_in}s 后重试"
        en "cannot listen on processor_metrics_listen {address}: {error}; retry in {retry_in}s"

    /// The socket in the data directory could not be made; `processor health` looks at the lock alone.
    Warn StatusSocketFailed "status_socket_failed" { path: PathBuf, error: String }
        zh "无法创建状态套接字 {path}: {error}；health 仅检查锁，top 不可用"
        en "the status socket {path} cannot be made: {error}; health looks at the lock alone, top does not work"

    // The log itself.

    /// Lines found no room because stderr was blocked.
    Warn LogLinesLost "log_lines_lost" { count: u64 }
        zh "stderr 阻塞，丢失 {count} 条日志"
        en "{count} log lines were lost because stderr took none"

    /// A step of a room, or a warning of a library, for looking into a fault.
    Debug Trace "trace" { target: String, text: String }
        zh "{target}: {text}"
        en "{target}: {text}"
}

/// A field's two forms.
trait Field: Sized {
    /// As it stands in a text.
    fn text(&self) -> String;
    /// As a JSON value.
    fn json(&self) -> String;
    /// The field's name in JSON.
    fn name(&self, name: &str) -> String {
        name.to_owned()
    }
    #[cfg(test)]
    fn sample() -> Self;
}

macro_rules! number_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn text(&self) -> String {
                self.to_string()
            }
            fn json(&self) -> String {
                self.to_string()
            }
            #[cfg(test)]
            fn sample() -> Self {
                15
            }
        }
    )*};
}

number_field!(u64, i32);

impl Field for String {
    fn text(&self) -> String {
        self.clone()
    }
    fn json(&self) -> String {
        json_string(self)
    }
    #[cfg(test)]
    fn sample() -> Self {
        "a\nb".to_owned()
    }
}

impl Field for &'static str {
    fn text(&self) -> String {
        (*self).to_owned()
    }
    fn json(&self) -> String {
        json_string(self)
    }
    #[cfg(test)]
    fn sample() -> Self {
        "word"
    }
}

impl Field for PathBuf {
    fn text(&self) -> String {
        self.display().to_string()
    }
    fn json(&self) -> String {
        json_string(&self.to_string_lossy())
    }
    #[cfg(test)]
    fn sample() -> Self {
        Self::from("/data/a\u{1b}b")
    }
}

impl Field for Duration {
    /// Seconds; below ten with one decimal where there is one.
    fn text(&self) -> String {
        let tenths = (self.as_millis() + 50) / 100;
        match (tenths / 10, tenths % 10) {
            (seconds, tenth) if seconds < 10 && tenth > 0 => format!("{seconds}.{tenth}"),
            _ => ((self.as_millis() + 500) / 1000).to_string(),
        }
    }
    fn json(&self) -> String {
        match self.subsec_millis() {
            0 => self.as_secs().to_string(),
            millis => format!("{}.{millis:03}", self.as_secs()),
        }
    }
    fn name(&self, name: &str) -> String {
        format!("{name}_sec")
    }
    #[cfg(test)]
    fn sample() -> Self {
        Self::from_millis(600_250)
    }
}

/// `98.3MB`, counted in MiB as the configuration's sizes are.
fn megabytes(bytes: u64) -> String {
    format!("{:.1}MB", bytes as f64 / 1_048_576.0)
}

/// `FILE:LINE`, or the file alone.
fn place(path: &std::path::Path, line: u64) -> String {
    if line == 0 { path.display().to_string() } else { format!("{}:{line}", path.display()) }
}

fn signal_name(signal: i32) -> String {
    match signal {
        1 => "SIGHUP".to_owned(),
        2 => "SIGINT".to_owned(),
        3 => "SIGQUIT".to_owned(),
        15 => "SIGTERM".to_owned(),
        other => format!("signal {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_stable_words_and_unique() {
        let names: BTreeSet<_> = Event::CATALOGUE.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), Event::CATALOGUE.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn both_languages_tell_the_same() {
        let shown = |text: &str| -> BTreeSet<String> {
            text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name.to_owned()).collect()
        };
        for entry in Event::CATALOGUE {
            assert_eq!(shown(entry.zh), shown(entry.en), "{}", entry.name);
        }
    }

    #[test]
    fn no_field_hides_a_member_of_the_json_line() {
        for event in Event::samples() {
            let names: Vec<_> = event.fields().into_iter().map(|(name, _)| name).collect();
            let all = names.iter().map(String::as_str).chain(["time", "level", "event", "message", "repeated"]);
            assert_eq!(all.collect::<BTreeSet<_>>().len(), names.len() + 5, "{}", event.name());
        }
    }

    #[test]
    fn only_faults_are_summed_up() {
        for event in Event::samples() {
            assert!(event.subject().is_none() || event.level() <= Level::Warn, "{}", event.name());
        }
        let failed = |name: &str| Event::UploadFailed { name: name.into(), error: "x".into() }.subject();
        assert_eq!(failed("a"), failed("a"));
        assert_ne!(failed("a"), failed("b"));
        assert_eq!(Event::InputEnded.subject(), None);
    }

    #[test]
    fn durations_show_as_seconds() {
        let shown = |millis| Duration::from_millis(millis).text();
        assert_eq!([shown(0), shown(250), shown(4000), shown(9960), shown(600_499)], ["0", "0.3", "4", "10", "600"]);
        assert_eq!(Duration::from_millis(1250).json(), "1.250");
    }
}
