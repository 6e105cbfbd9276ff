//! Starting, signalling and reaping one daemon, which is a group of processes.
//!
//! Each daemon leads a process group of its own, so that a Ctrl-C in our terminal does not reach it and so that all of it can
//! be killed together. Promises:
//!
//! * No process of a group outlives us, even when we are killed with SIGKILL. The core has a parent-death signal. Its plugins
//!   and writers are grandchildren, to which that does not apply; for them there is the *leash*: a pipe whose write end only we
//!   hold and whose read end every process of the group inherits, armed so that the kernel itself sends SIGKILL to the whole
//!   group as soon as the write end closes.
//! * No zombies: we are the subreaper of what the daemons leave behind, and wait for whole groups.
//! * The children never see our password: `PROCESSOR_*` is not in their environment, nor is our service socket.
//!
//! Nothing here decides when to do what; that is `supervise`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getppid, kill_process, kill_process_group, set_child_subreaper,
    set_parent_process_death_signal, wait, waitpgid,
};

use super::conf::LOCK_FD;
use super::lines::Lines;
use crate::supervise::{Daemon, Exit};

/// A daemon that was started and not yet reaped to its last process.
#[derive(Debug)]
pub(super) struct Group {
    core: Pid,
    is_core_gone: bool,
    /// What it says, for people; nothing of it is data.
    pub(super) lines: Lines,
    /// The write end of the leash. Closing it kills the group.
    _leash: OwnedFd,
}

/// Something that was reaped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reaped {
    /// The core, and how it ended.
    Core(WaitStatus),
    /// The last process of the group.
    Last,
}

/// Makes processes that lose their parent our children, so that they can be reaped.
pub(super) fn adopt_orphans() -> io::Result<()> {
    // Linux takes any number other than zero for "yes".
    Ok(set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Reaps children that belong to no group of ours. For process 1 only, to which every orphan of the container comes; elsewhere
/// it would take children away from others. To be called when the groups have just been reaped.
pub(super) fn reap_strays(groups: &mut [Option<Group>; 2]) -> Vec<(Daemon, Reaped)> {
    let mut found = Vec::new();
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        for (daemon, group) in Daemon::BOTH.into_iter().zip(groups.iter_mut()) {
            if let Some(group) = group.as_mut().filter(|group| group.core == pid) {
                group.is_core_gone = true;
                found.push((daemon, Reaped::Core(status)));
            }
        }
    }
    found
}

impl Group {
    /// Starts `program -f conf` in a group of its own.
    ///
    /// The exporter prints its last counters on stdout, so its stdout goes where its messages go. The collector's stdout are the
    /// rows: the second value is the pipe to read them from.
    ///
    /// The calling thread must live as long as the daemon: the parent-death signal is tied to the thread.
    pub(super) fn start(daemon: Daemon, program: &Path, conf: &Path) -> io::Result<(Self, Option<OwnedFd>)> {
        let (said, says) = pipe_with(PipeFlags::CLOEXEC)?;
        let (held, leash) = pipe_with(PipeFlags::CLOEXEC)?;
        let (rows, stdout) = match daemon {
            Daemon::Collector => pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (Some(read), write))?,
            Daemon::Exporter => (None, says.try_clone()?),
        };
        let mut command = Command::new(program);
        command.arg("-f").arg(conf).stdin(Stdio::null()).stdout(stdout).stderr(says).process_group(0);
        for name in secret_names() {
            command.env_remove(name);
        }
        let lock = match daemon {
            Daemon::Collector => Some(memfd_create("print.lock", MemfdFlags::CLOEXEC)?),
            Daemon::Exporter => None,
        };
        bind_to_us(&mut command, held.as_raw_fd(), lock.as_ref().map(AsRawFd::as_raw_fd));
        let child = command.spawn()?;
        // Linux process ids are positive numbers of an i32.
        let core = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok((Self { core, is_core_gone: false, lines: Lines::new(said)?, _leash: leash }, rows))
    }

    /// The core's process id, which is the group's too.
    pub(super) fn core(&self) -> Pid {
        self.core
    }

    /// Whether the core was reaped.
    pub(super) fn is_core_gone(&self) -> bool {
        self.is_core_gone
    }

    /// Sends a signal to the core alone. Does nothing when the core is reaped: its number may be another's by now.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.is_core_gone {
            // It may have ended in this moment; then the next reap tells.
            let _ = kill_process(self.core, signal);
        }
    }

    /// SIGKILL to every process of the group.
    pub(super) fn kill(&self) {
        let _ = kill_process_group(self.core, Signal::KILL);
    }

    /// Reaps what has ended, without waiting. After [`Reaped::Last`] the group is of no more use.
    pub(super) fn reap(&mut self) -> Vec<Reaped> {
        let mut found = Vec::new();
        loop {
            match waitpgid(self.core, WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.core => {
                    self.is_core_gone = true;
                    found.push(Reaped::Core(status));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return found,
                // No child of ours is in the group: the core is reaped, and orphans would have come to us.
                Err(_) => {
                    found.push(Reaped::Last);
                    return found;
                }
            }
        }
    }
}

/// Whether the core flushed everything.
pub(super) fn exit_of(status: WaitStatus) -> Exit {
    if status.exit_status() == Some(0) { Exit::Clean } else { Exit::Failed }
}

/// How a process ended, in the words of a shell.
pub(super) fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("{status:?}"),
    }
}

/// Variables of ours that are no business of a child.
fn secret_names() -> Vec<OsString> {
    let is_ours = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("PROCESSOR_") || matches!(&*name, "NOTIFY_SOCKET" | "WATCHDOG_USEC" | "WATCHDOG_PID")
    };
    std::env::vars_os().map(|(name, _)| name).filter(is_ours).collect()
}

/// Lets the kernel end the child and its whole group when we end, and gives the child its lock at [`LOCK_FD`].
#[allow(unsafe_code)]
fn bind_to_us(command: &mut Command, held: RawFd, lock: Option<RawFd>) {
    let us = rustix::process::getpid();
    let arm = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died before the signal was set; then another process is the parent by now.
        if getppid() != Some(us) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        arm_leash(held)?;
        lock.map_or(Ok(()), pass_lock)
    };
    // SAFETY: the closure runs in the child between fork and exec. It allocates nothing, takes no lock and makes only the
    // system calls prctl, getppid, fcntl and dup2, which are async-signal-safe. `held` and `lock` are open in the child: its
    // table is a copy of the parent's at the fork, and the parent closes its own only after `spawn` has returned.
    unsafe {
        command.pre_exec(arm);
    }
}

/// Puts the lock where the collector's configuration names it, and lets it live through `exec`.
#[allow(unsafe_code)]
fn pass_lock(lock: RawFd) -> io::Result<()> {
    // SAFETY: dup2 and fcntl take integers and touch no memory of ours. What the number stood for before belongs to the parent,
    // and its copy here would be closed by the exec.
    let is_passed = unsafe { libc::dup2(lock, LOCK_FD) != -1 && libc::fcntl(LOCK_FD, libc::F_SETFD, 0) != -1 };
    if is_passed { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Arms the read end of the leash for the process group that the caller leads, and lets it live through `exec`.
///
/// When the last copy of the write end closes, the kernel signals the owner of the read end (`fcntl(2)`, `F_SETOWN` with a
/// negative number: a process group; `F_SETSIG`: the signal). Copies of the write end in children that are about to exec are
/// closed by the exec, so the order of events does not matter.
#[allow(unsafe_code)]
fn arm_leash(held: RawFd) -> io::Result<()> {
    /// From the kernel's `fcntl.h`; the libc crate lacks it on most targets.
    const F_SETSIG: libc::c_int = 10;
    let group = -rustix::process::getpid().as_raw_nonzero().get();
    for (command, argument) in [
        (libc::F_SETOWN, group),
        (F_SETSIG, libc::SIGKILL),
        (libc::F_SETFL, libc::O_ASYNC),
        // Without FD_CLOEXEC: the plugins inherit it, and so the leash holds as long as one of them lives.
        (libc::F_SETFD, 0),
    ] {
        // SAFETY: fcntl with these commands takes an integer and touches no memory of ours.
        if unsafe { libc::fcntl(held, command, argument) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
