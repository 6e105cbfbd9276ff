# Runs a command whose threads never return from a system call, as on a disk that does not answer:
# hang.py CALL N COMMAND...  lets the call pass N - 1 times in all threads together, then holds every further one for ever.
#
# The calls wait in the kernel for an answer that never comes (seccomp's user notification, Linux 5.5). Such a wait ends when
# the process ends, unlike that of a file system in an uninterruptible sleep, and nothing is traced. x86_64 and aarch64.
import ctypes, os, platform, struct, sys

CALLS = {
    "x86_64": {"pwrite64": 18, "fsync": 74, "fdatasync": 75, "flock": 73, "renameat2": 316, "openat": 257, "write": 1},
    "aarch64": {"pwrite64": 68, "fsync": 82, "fdatasync": 83, "flock": 32, "renameat2": 276, "openat": 56, "write": 64},
}[platform.machine()]
SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


call, passing, command = CALLS[sys.argv[1]], int(sys.argv[2]) - 1, sys.argv[3:]
# Load the number of the call; notify when it is ours (SECCOMP_RET_USER_NOTIF), else allow.
filter = b"".join(
    struct.pack("HBBI", *line)
    for line in [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x7FC00000), (0x06, 0, 0, 0x7FFF0000)]
)
lines = ctypes.create_string_buffer(filter, len(filter))
program = struct.pack("HxxxxxxP", len(filter) // 8, ctypes.addressof(lines))
there, here = os.pipe()
ours = os.getpid()
if os.fork() > 0:
    # The command. The other process has the listener's descriptor from ours (pidfd_getfd), for it must not be under the filter.
    check(libc.prctl(38, 1, 0, 0, 0))
    listener = check(libc.syscall(SECCOMP, 1, 8, program))
    os.set_inheritable(listener, True)
    os.write(here, struct.pack("i", listener))
    os.close(here)
    os.close(there)
    os.execvp(command[0], command)
check(libc.prctl(1, 9, 0, 0, 0))
os.close(here)
(number,) = struct.unpack("i", os.read(there, 4))
listener = check(libc.syscall(438, os.pidfd_open(ours), number, 0))
for _ in range(passing):
    request = ctypes.create_string_buffer(80)
    if libc.ioctl(listener, ctypes.c_ulong(0xC0502100), request) < 0:
        break
    # The same id, no value, no error: the call goes on (SECCOMP_USER_NOTIF_FLAG_CONTINUE).
    answer = ctypes.create_string_buffer(request.raw[:8] + struct.pack("qiI", 0, 0, 1), 24)
    libc.ioctl(listener, ctypes.c_ulong(0xC0182101), answer)
signal_never = os.pipe()
os.read(signal_never[0], 1)
