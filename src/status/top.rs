//! `processor top`: the numbers of `/api/status` as a picture in the terminal. Pure: an answer and a moment in, a frame out.
//!
//! What is on it is what is on the status page, in the order in which trouble shows: readiness, rates, losses, faults,
//! files. Everything foreign is shown, never obeyed. A terminal that is too small shows less, never garbage.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use chrono::{Local, TimeZone};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table};
use serde_json::Value;

use crate::log::{Lang, visible};

/// Over how long the rates are taken, as on the status page.
const OVER: Duration = Duration::from_secs(10);
/// Without an answer for so long, it is said.
const SILENCE: Duration = Duration::from_secs(3);

const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red);
const WARN: Style = Style::new().fg(Color::Yellow);
const SOFT: Style = Style::new().fg(Color::DarkGray);

/// What was answered so far.
#[derive(Debug)]
pub struct View {
    lang: Lang,
    last: Value,
    answered: Instant,
    /// Counters of the last ten seconds: run time, lines, packets, bytes.
    past: VecDeque<[f64; 4]>,
}

/// Words of the picture, in both languages.
fn word(lang: Lang, en: &'static str, zh: &'static str) -> &'static str {
    match lang {
        Lang::En => en,
        Lang::Zh => zh,
    }
}

impl View {
    /// The first answer.
    pub fn new(lang: Lang, answer: Value, now: Instant) -> Self {
        let mut view = Self { lang, last: Value::Null, answered: now, past: VecDeque::new() };
        view.take(answer, now);
        view
    }

    /// A further answer.
    pub fn take(&mut self, answer: Value, now: Instant) {
        if self.last["pid"] != answer["pid"] {
            self.past.clear();
        }
        let read = &answer["read"];
        let point = [&answer["runSecs"], &read["lines"], &read["packets"], &read["bytes"]].map(number);
        while self.past.front().is_some_and(|old| point[0] - old[0] > OVER.as_secs_f64()) {
            self.past.pop_front();
        }
        self.past.push_back(point);
        self.last = answer;
        self.answered = now;
    }

    /// A rate over the last ten seconds; the last point of the hour until two of them have passed.
    fn rate(&self, of: usize, column: &str) -> f64 {
        let (Some(first), Some(last)) = (self.past.front(), self.past.back()) else { return 0.0 };
        let time = last[0] - first[0];
        if time < 2.0 {
            return self.last["history"][column].as_array().and_then(|points| points.last()).map_or(0.0, number);
        }
        ((last[of] - first[of]) / time).max(0.0)
    }

    fn say(&self, en: &'static str, zh: &'static str) -> &'static str {
        word(self.lang, en, zh)
    }

    /// Draws everything.
    pub fn render(&self, frame: &mut Frame<'_>, now: Instant) {
        let faults = self.faults_of_readiness(now);
        let banner = u16::try_from(faults.len()).unwrap_or(4).min(4);
        // A low terminal gives up the charts first, then the tables, never the head.
        let (rates, tables) = match frame.area().height {
            30.. => (7, 9),
            22.. => (4, 9),
            _ => (4, 0),
        };
        let [head, banner, rates, tables, events, files, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(banner),
            Constraint::Length(rates),
            Constraint::Length(tables),
            Constraint::Min(3),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.head(frame, head);
        frame.render_widget(Paragraph::new(faults), banner);
        self.rates(frame, rates);
        self.tables(frame, tables);
        self.events(frame, events);
        self.files(frame, files);
        let keys = self.say("q: leave", "q: 退出");
        frame.render_widget(Paragraph::new(keys).style(SOFT), foot);
    }

    fn head(&self, frame: &mut Frame<'_>, area: Rect) {
        let s = &self.last;
        let ready = s["ready"] == true;
        let badge = if ready { self.say(" ready ", " 就绪 ") } else { self.say(" NOT READY ", " 未就绪 ") };
        let style = if ready { GOOD } else { BAD };
        let first = vec![
            Span::styled(format!("processor {} ", text(&s["version"])), Style::new().add_modifier(Modifier::BOLD)),
            Span::styled(badge, style.add_modifier(Modifier::REVERSED)),
            Span::raw(format!(" {} · {} · {}", text(&s["host"]), text(&s["source"]), text(&s["dataDir"]))),
        ];
        let second = format!(
            "{} {} · {} {} · CPU {} · {}",
            self.say("pid", "进程"),
            number(&s["pid"]),
            self.say("runs for", "已运行"),
            span(number(&s["runSecs"]), self.lang),
            span(number(&s["cpuSecs"]), self.lang),
            bytes(number(&s["residentBytes"])),
        );
        frame.render_widget(Paragraph::new(vec![Line::from(first), Line::styled(second, SOFT)]), area);
    }

    /// What is not as it should be: silence first, then the checks of `/readyz`.
    fn faults_of_readiness(&self, now: Instant) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        let silent = now.saturating_duration_since(self.answered);
        if silent >= SILENCE {
            let said = self.say("no answer from the program for", "程序没有应答，已持续");
            let again = self.say("; trying again", "；正在重试");
            let line = format!("{said} {}{again}", span(silent.as_secs_f64(), self.lang));
            lines.push(Line::styled(line, BAD.add_modifier(Modifier::REVERSED)));
        }
        for check in list(&self.last["checks"]).iter().filter(|check| check["ok"] == false) {
            let why = match self.lang {
                Lang::Zh => text(&check["textZh"]),
                Lang::En => text(&check["text"]),
            };
            lines.push(Line::styled(format!("{}: {why}", text(&check["name"])), BAD));
        }
        lines
    }

    fn rates(&self, frame: &mut Frame<'_>, area: Rect) {
        let s = &self.last;
        let columns: [(&str, &str, String, &str); 4] = [
            (self.say("lines/s", "行/秒"), "lines", count(self.rate(1, "lines")), "lines"),
            (self.say("packets/s", "包/秒"), "packets", count(self.rate(2, "packets")), "packets"),
            (self.say("traffic/s", "流量/秒"), "bytes", bytes(self.rate(3, "bytes")), "bytes"),
            (self.say("waiting files", "待上传文件"), "spoolBytes", count(number(&s["spool"]["files"])), ""),
        ];
        let areas: [Rect; 4] = Layout::horizontal([Constraint::Ratio(1, 4); 4]).areas(area);
        for ((title, history, value, total), area) in columns.into_iter().zip(areas) {
            let below = if total.is_empty() {
                bytes(number(&s["spool"]["bytes"]))
            } else {
                let sum = number(&s["read"][total]);
                let sum = if total == "bytes" { bytes(sum) } else { count(sum) };
                format!("{} {sum}", self.say("total", "累计"))
            };
            let block = Block::new().borders(Borders::ALL).border_style(SOFT).title(title);
            let inside = block.inner(area);
            frame.render_widget(block, area);
            let [value_area, below_area, chart] =
                Layout::vertical([Constraint::Length(1), Constraint::Length(1), Constraint::Min(0)]).areas(inside);
            frame.render_widget(Paragraph::new(value).style(Style::new().add_modifier(Modifier::BOLD)), value_area);
            frame.render_widget(Paragraph::new(below).style(SOFT), below_area);
            let points = list(&s["history"][history]);
            let skip = points.len().saturating_sub(usize::from(chart.width));
            let points: Vec<u64> = points[skip..].iter().map(|point| point.as_u64().unwrap_or(0)).collect();
            frame.render_widget(Sparkline::default().data(&points).style(Style::new().fg(Color::Cyan)), chart);
        }
    }

    fn tables(&self, frame: &mut Frame<'_>, area: Rect) {
        let areas: [Rect; 3] = Layout::horizontal([Constraint::Ratio(1, 3); 3]).areas(area);
        pairs(frame, areas[0], self.say("upload", "上传"), self.upload());
        pairs(frame, areas[1], self.say("losses", "丢失"), self.losses());
        pairs(frame, areas[2], self.say("queues", "队列"), self.queues());
    }

    fn upload(&self) -> Vec<Pair> {
        let (s, plain) = (&self.last, Style::new());
        let (upload, spool) = (&s["upload"], &s["spool"]);
        let pair = |name: &'static str, value: String| (name.to_owned(), value, plain);
        let mut rows = vec![];
        if upload["to"].is_null() {
            rows.push(pair(self.say("off", "未启用"), String::new()));
        } else {
            let last = &upload["lastSuccess"];
            let ago = || span(number(&s["now"]) - number(last), self.lang) + self.say(" ago", "前");
            let last = if last.is_null() { self.say("none yet", "尚无").to_owned() } else { ago() };
            let failures = number(&upload["failures"]);
            rows.push(pair(self.say("to", "目标"), text(&upload["to"])));
            rows.push(pair(self.say("files delivered", "已上传文件"), count(number(&upload["files"]))));
            let style = if failures > 0.0 { WARN } else { plain };
            rows.push((self.say("failed attempts", "失败次数").to_owned(), count(failures), style));
            rows.push(pair(self.say("last success", "最近成功"), last));
        }
        if let Some(oldest) = spool["oldestSecs"].as_f64() {
            rows.push(pair(self.say("oldest waits", "最旧的已等待"), span(oldest, self.lang)));
        }
        rows.push(pair(self.say("file being written", "正在写入的文件"), bytes(number(&spool["openBytes"]))));
        rows.push(pair(self.say("free on disk", "磁盘剩余"), bytes(number(&spool["freeBytes"]))));
        rows
    }

    fn losses(&self) -> Vec<Pair> {
        let losses = list(&self.last["losses"]);
        let lost = losses.iter().filter(|loss| number(&loss["count"]) > 0.0);
        let name = |loss: &Value| format!("{} ({})", text(&loss["where"]), text(&loss["unit"]));
        let mut rows: Vec<_> = lost.map(|loss| (name(loss), count(number(&loss["count"])), BAD)).collect();
        if rows.is_empty() {
            let all = format!("{} {} 0", losses.len(), self.say("counters:", "个计数均为"));
            rows.push((self.say("none", "无").to_owned(), all, GOOD));
        }
        let bad = number(&self.last["badLines"]);
        if bad > 0.0 {
            rows.push((self.say("bad lines", "异常行").to_owned(), count(bad), WARN));
        }
        let torn = number(&self.last["spool"]["tornFiles"]);
        if torn > 0.0 {
            rows.push((self.say("files in torn/", "torn/ 中的文件").to_owned(), count(torn), WARN));
        }
        for child in
            list(&self.last["children"]).iter().filter(|child| child["up"] == false || number(&child["restarts"]) > 0.0)
        {
            let name = format!("{} {}", text(&child["name"]), self.say("restarts", "重启次数"));
            rows.push((name, count(number(&child["restarts"])), WARN));
        }
        rows
    }

    fn queues(&self) -> Vec<Pair> {
        let queue = |queue: &Value| {
            let (length, capacity) = (number(&queue["length"]), number(&queue["capacity"]));
            let style = if capacity > 0.0 && length >= capacity { WARN } else { Style::new() };
            let name = match queue["name"].as_str() {
                Some("blocks") => self.say("blocks in use", "占用的缓冲块").to_owned(),
                Some("pack") => self.say("to pack", "待压缩").to_owned(),
                Some("spool") => self.say("to disk", "待写盘").to_owned(),
                _ => text(&queue["name"]),
            };
            (name, format!("{length} / {capacity}"), style)
        };
        list(&self.last["queues"]).iter().map(queue).collect()
    }

    fn events(&self, frame: &mut Frame<'_>, area: Rect) {
        let lang = if self.lang == Lang::Zh { "zh" } else { "en" };
        let rows = list(&self.last["faults"]).iter().map(|fault| {
            let style = if fault["level"] == "error" { BAD } else { WARN };
            let times = number(&fault["count"]);
            let times = if times > 1.0 { format!("×{times}") } else { String::new() };
            Row::new([
                Cell::new(clock(number(&fault["at"]))),
                Cell::new(times),
                Cell::new(Span::styled(text(&fault[lang]), style)),
            ])
        });
        let title = self.say("last warnings and errors", "最近的警告与错误");
        let table = Table::new(rows, [Constraint::Length(8), Constraint::Length(6), Constraint::Fill(1)]);
        frame.render_widget(table.block(Block::new().borders(Borders::TOP).border_style(SOFT).title(title)), area);
    }

    fn files(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = list(&self.last["files"]).iter().map(|file| {
            let (fate, style) = match file["fate"].as_str() {
                Some("uploaded") => (self.say("uploaded", "已上传"), GOOD),
                Some("failed") => (self.say("failed, waits", "失败，等待重试"), BAD),
                Some("dropped") => (self.say("dropped", "已丢弃"), BAD),
                _ => (self.say("waiting", "待上传"), Style::new()),
            };
            let size = file["bytes"].as_f64().map(bytes).unwrap_or_default();
            Row::new([
                Cell::new(clock(number(&file["at"]))),
                Cell::new(Line::raw(size).right_aligned()),
                Cell::new(Span::styled(fate, style)),
                Cell::new(text(&file["name"])),
            ])
        });
        let title = self.say("last files", "最近的文件");
        let widths = [Constraint::Length(8), Constraint::Length(10), Constraint::Length(14), Constraint::Fill(1)];
        let table = Table::new(rows, widths);
        frame.render_widget(table.block(Block::new().borders(Borders::TOP).border_style(SOFT).title(title)), area);
    }
}

/// A name and its value.
type Pair = (String, String, Style);

/// Values are never cut before their names.
fn pairs(frame: &mut Frame<'_>, area: Rect, title: &'static str, pairs: Vec<Pair>) {
    let widest = pairs.iter().map(|(_, value, _)| Span::raw(value).width()).max().unwrap_or(0);
    let widest = u16::try_from(widest).unwrap_or(u16::MAX);
    let rows = pairs.into_iter().map(|(name, value, style)| {
        Row::new([Cell::new(name).style(SOFT), Cell::new(Line::styled(value, style).right_aligned())])
    });
    let table = Table::new(rows, [Constraint::Fill(1), Constraint::Length(widest)]);
    frame.render_widget(table.block(Block::new().borders(Borders::ALL).border_style(SOFT).title(title)), area);
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn text(value: &Value) -> String {
    visible(value.as_str().unwrap_or_default())
}

/// `1234567` → `1.23 M`; below ten thousand as it is.
fn count(n: f64) -> String {
    for (size, unit) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")] {
        if n >= size {
            let size = if unit == "k" { 1e3 } else { size };
            return format!("{} {unit}", short(n / size));
        }
    }
    short(n)
}

fn bytes(n: f64) -> String {
    for (size, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let size = (1u64 << size) as f64;
        if n >= size {
            return format!("{} {unit}", short(n / size));
        }
    }
    format!("{n:.0} B")
}

/// Three digits that count; whole numbers whole.
fn short(n: f64) -> String {
    if n >= 100.0 || n.fract() == 0.0 {
        format!("{n:.0}")
    } else if n >= 10.0 {
        format!("{n:.1}")
    } else {
        format!("{n:.2}")
    }
}

fn span(seconds: f64, lang: Lang) -> String {
    let s = seconds.max(0.0);
    let (n, en, zh) = match s {
        _ if s < 120.0 => (s, "s", "秒"),
        _ if s < 7200.0 => (s / 60.0, "min", "分钟"),
        _ if s < 172_800.0 => (s / 3600.0, "h", "小时"),
        _ => (s / 86_400.0, "d", "天"),
    };
    format!("{n:.0} {}", word(lang, en, zh))
}

/// The time of day of the terminal's zone.
fn clock(epoch: f64) -> String {
    let local = Local.timestamp_opt(epoch as i64, 0).single();
    local.map_or_else(String::new, |local| local.format("%H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn answer(run_secs: f64, lines: u64) -> Value {
        json!({
            "now": 1000.0, "version": "1.2.3", "source": "stdin", "host": "probe", "dataDir": "/data", "pid": 42,
            "runSecs": run_secs, "cpuSecs": 3.0, "residentBytes": 20 << 20, "ready": true,
            "checks": [{ "name": "spool", "ok": true, "text": null, "textZh": null }],
            "read": { "lines": lines, "packets": lines * 10, "bytes": lines * 1000 },
            "spool": { "files": 3, "bytes": 4096, "oldestSecs": 90, "openBytes": 512, "freeBytes": 1u64 << 40 },
            "upload": { "to": "10.0.0.10:21", "files": 7, "failures": 0, "lastSuccess": 940 },
            "queues": [{ "name": "blocks", "length": 2, "capacity": 64 }],
            "losses": [{ "where": "kernel", "unit": "packets", "count": 0 }], "badLines": 0, "children": [],
            "files": [{ "name": "flows_1.csv.gz", "fate": "uploaded", "at": 900, "bytes": 2048 }],
            "faults": [{ "at": 900, "count": 2, "level": "error", "en": "FTP upload failed", "zh": "上传失败" }],
            "history": { "lines": [1, 5, 9], "packets": [1], "bytes": [1], "spoolBytes": [1] },
        })
    }

    /// What a terminal of this size shows, line by line; wide characters fill two cells.
    fn shown(view: &View, now: Instant, (width, height): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.render(frame, now)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| row(y) + "\n").collect()
    }

    #[test]
    fn the_numbers_of_the_answer() {
        let now = Instant::now();
        let mut view = View::new(Lang::En, answer(100.0, 1000), now);
        view.take(answer(105.0, 101_000), now);
        let screen = shown(&view, now, (100, 34));
        for part in [
            "processor 1.2.3  ready  probe · stdin · /data",
            "pid 42 · runs for 105 s · CPU 3 s · 20 MiB",
            "20 k",
            "200 k",
            "19.1 MiB",
            "total 101 k",
            "10.0.0.10:21",
            "1 counters: 0",
            "2 / 64",
            "×2     FTP upload failed",
            "flows_1.csv.gz",
        ] {
            assert!(screen.contains(part), "{part} is missing in\n{screen}");
        }
        assert!(!screen.contains("no answer"), "{screen}");
    }

    #[test]
    fn trouble_stands_at_the_top() {
        let now = Instant::now();
        let mut sick = answer(100.0, 0);
        sick["ready"] = false.into();
        sick["checks"] =
            json!([{ "name": "spool", "ok": false, "text": "the data directory is full", "textZh": "数据目录已满" }]);
        let view = View::new(Lang::En, sick.clone(), now);
        let screen = shown(&view, now + Duration::from_secs(7), (100, 34));
        let lines: Vec<_> = screen.lines().collect();
        assert!(lines[0].contains("NOT READY"), "{screen}");
        assert!(lines[2].starts_with("no answer from the program for 7 s"), "{screen}");
        assert!(lines[3].starts_with("spool: the data directory is full"), "{screen}");
        let zh = shown(&View::new(Lang::Zh, sick, now), now, (100, 34)).replace(' ', "");
        assert!(zh.contains("未就绪") && zh.contains("数据目录已满") && zh.contains("上传失败"), "{zh}");
    }

    #[test]
    fn any_size_and_any_answer_draw() {
        let now = Instant::now();
        for size in [(1, 1), (20, 5), (40, 12), (80, 24), (300, 100)] {
            shown(&View::new(Lang::Zh, answer(1.0, 1), now), now, size);
            shown(&View::new(Lang::En, json!({}), now), now, size);
        }
    }

    #[test]
    fn a_new_process_begins_anew() {
        let now = Instant::now();
        let mut view = View::new(Lang::En, answer(1000.0, 9_000_000), now);
        let mut fresh = answer(3.0, 30);
        fresh["pid"] = 43.into();
        view.take(fresh, now);
        assert!((view.rate(1, "lines") - 9.0).abs() < 0.1, "the hour's last point until two seconds have passed");
    }

    #[test]
    fn foreign_text_is_not_obeyed() {
        let mut odd = answer(1.0, 1);
        odd["host"] = "a\u{1b}[2Jb".into();
        let screen = shown(&View::new(Lang::En, odd, Instant::now()), Instant::now(), (100, 34));
        assert!(!screen.contains('\u{1b}') && screen.contains("a\\u{1b}[2Jb"), "{screen}");
    }
}
