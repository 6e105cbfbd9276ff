//! `processor top`: asks the socket of the data directory, draws, waits for a key, again and again.
//!
//! The terminal is given back as it was, whatever ends the program: a key, a signal, a panic, an error.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{DONE, FAILED, HEALTH, MISUSED, locked};
use crate::log::Lang;
use crate::status::client;
use crate::status::top::View;

/// Time between two answers.
const EVERY: Duration = Duration::from_secs(1);
/// How long a key or a signal waits at most.
const PATIENCE: Duration = Duration::from_millis(200);

/// Shows until a key or a signal ends it.
pub(super) fn run(data_dir: &Path) -> u8 {
    let first = match ask(data_dir) {
        Ok(answer) => answer,
        Err(silence) => {
            eprintln!("{}", locked(data_dir, true, &silence).0);
            return FAILED;
        }
    };
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        eprintln!("processor top draws on a terminal; for scripts there are processor health and /api/status");
        return MISUSED;
    }
    let outcome = ended().and_then(|end| {
        let mut terminal = ratatui::try_init()?;
        let shown = show(&mut terminal, data_dir, first, &end);
        ratatui::try_restore().and(shown)
    });
    match outcome {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("the terminal: {error}");
            FAILED
        }
    }
}

/// Becomes true with a signal that asks for the end.
fn ended() -> io::Result<Arc<AtomicBool>> {
    let end = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&end))?;
    }
    Ok(end)
}

fn show(terminal: &mut DefaultTerminal, data_dir: &Path, first: Value, end: &AtomicBool) -> io::Result<()> {
    let mut view = View::new(language(), first, Instant::now());
    let mut next = Instant::now() + EVERY;
    while !end.load(Relaxed) {
        terminal.draw(|frame| view.render(frame, Instant::now()))?;
        let wait = next.saturating_duration_since(Instant::now()).min(PATIENCE);
        // A signal interrupts the wait; the loop's head looks at its flag.
        let came = match event::poll(wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            came => came?,
        };
        if came && leaves(&event::read()?) {
            return Ok(());
        }
        if Instant::now() >= next {
            next = Instant::now() + EVERY;
            // Silence shows by itself: the view knows when the last answer came.
            if let Ok(answer) = ask(data_dir) {
                view.take(answer, Instant::now());
            }
        }
    }
    Ok(())
}

fn ask(data_dir: &Path) -> io::Result<Value> {
    let (_, body) = client::get(data_dir, "/api/status", HEALTH)?;
    Ok(serde_json::from_str(&body)?)
}

/// q, Esc, or Ctrl-C, which a terminal in raw mode gives as a key.
fn leaves(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// The terminal's language, by the variables that say it.
fn language() -> Lang {
    let set = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    if set.is_some_and(|value| value.starts_with("zh")) { Lang::Zh } else { Lang::En }
}
