//! The installed files: one `make install` into a temporary folder, shared by all tests that run at
//! the same time and removed with the last of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use tempfile::TempDir;

/// What `make install` made.
#[derive(Debug)]
pub struct Stage {
    root: TempDir,
}

static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());

impl Stage {
    /// The installation of this test run.
    pub fn shared() -> Arc<Self> {
        // A poisoned lock is harmless: the `Weak` is still valid.
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let stage = Arc::new(Self::install());
            *shared = Arc::downgrade(&stage);
            stage
        })
    }

    fn install() -> Self {
        let root = public_folder();
        // The programs that `make build` made, if VGRID_PROGRAMS names them, otherwise those that
        // cargo built for this test.
        let made = std::env::var_os("VGRID_PROGRAMS").map(PathBuf::from);
        let fresh = Path::new(env!("CARGO_BIN_EXE_user-list")).parent().expect("a folder of programs");
        let programs = made.as_deref().unwrap_or(fresh);
        let made = Command::new("make")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["--silent", "install"])
            .arg(format!("DESTDIR={}", root.path().display()))
            .arg(format!("PROGRAMS={}", programs.display()))
            // Do not inherit from a make that runs the tests.
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS")
            .env_remove("MAKELEVEL")
            .output()
            .expect("make can be started");
        assert!(made.status.success(), "make install: {}", String::from_utf8_lossy(&made.stderr));
        Self { root }
    }

    /// An installed file or folder, by its final absolute path.
    pub fn path(&self, installed: &str) -> PathBuf {
        self.root.path().join(installed.trim_start_matches('/'))
    }
}

/// A temporary folder that the web server's user can enter.
pub fn public_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new()
        .prefix("vgrid-test.")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .expect("a temporary folder")
}
