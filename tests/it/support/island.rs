//! File systems of our own in a private mount namespace: small ones, full ones, ones that lose their power.
//!
//! The namespace belongs to a child that waits; what is mounted in it is seen by nobody else, and goes with the child.
//! Its files are reached through `/proc/PID/root`, by the tests and by the program under test.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A mount namespace with one file system in it.
pub struct Island {
    keeper: Child,
    dir: TempDir,
    mount: PathBuf,
    /// The image, when there is one.
    image: Option<PathBuf>,
}

/// A file system on a loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Xfs,
}

impl Island {
    /// An empty tmpfs with these mount options, `size=2m` say.
    pub fn tmpfs(options: &str) -> Self {
        let island = Self::new(None);
        island.sh(&format!("mount -t tmpfs -o {options} island {}", island.mount.display()));
        island
    }

    /// An empty file system on a loop device, of the smallest size that its tools make.
    pub fn on_loop(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let (mib, make): (u64, &[&str]) = match kind {
            Kind::Ext4 => (32, &["mkfs.ext4", "-q", "-F"]),
            Kind::Xfs => (300, &["mkfs.xfs", "-q", "-f"]),
        };
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let made = Command::new(make[0]).args(&make[1..]).arg(&image).output();
        let made = made.unwrap_or_else(|error| panic!("{}: {error}; run scripts/packages test", make[0]));
        assert!(made.status.success(), "{made:?}");
        let island = Self::in_dir(dir, Some(image));
        island.mount();
        island
    }

    fn new(image: Option<PathBuf>) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), image)
    }

    fn in_dir(dir: TempDir, image: Option<PathBuf>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "mount namespaces need root: run scripts/test");
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; read _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "a private mount namespace is refused on this machine");
        Self { keeper, dir, mount, image }
    }

    /// Runs a command in the namespace; its failure is the test's.
    #[track_caller]
    pub fn sh(&self, command: &str) {
        let pid = self.keeper.id().to_string();
        let done = Command::new("nsenter").args(["--mount", "--target", &pid, "sh", "-c", command]).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// The mounted directory, as everybody can reach it.
    pub fn path(&self) -> PathBuf {
        let outside = self.mount.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(outside)
    }

    /// Where it is mounted, as [`Self::sh`] sees it.
    pub fn mounted(&self) -> &Path {
        &self.mount
    }

    /// Mounts the image.
    pub fn mount(&self) {
        let image = self.image.as_ref().expect("an image").display();
        self.sh(&format!("mount -o loop {image} {}", self.mount.display()));
    }

    pub fn unmount(&self) {
        self.sh(&format!("umount {}", self.mount.display()));
    }

    /// Mounts anew with other options, `remount,size=16m` say.
    pub fn remount(&self, options: &str) {
        self.sh(&format!("mount -o remount,{options} {}", self.mount.display()));
    }

    /// The power goes: nothing that is not on the device yet will ever be.
    pub fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number; 2 is "do not flush the log".
        let script = "import fcntl,os,struct,sys; \
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        self.sh(&format!("python3 -c \"{script}\" {}", self.mount.display()));
    }

    /// A directory outside of the island for whatever the test needs.
    pub fn ashore(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // The last process of a namespace takes its mounts along.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
