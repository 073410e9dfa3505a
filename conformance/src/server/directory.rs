//! Directories of servers, and the end of servers whose test program was killed.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// The file in a directory that says what ends its server, as a shell script.
const END: &str = "end";

/// What ends every server of this program and removes its files once the program is gone, however it ended. A signal
/// to be sent when a parent dies would not do: Linux sends it when the *thread* ends that started the child.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
for end in "$0"/*/end; do
    [ -f "$end" ] && sh "$end"
done
rm -rf "$0" || { sleep 1; rm -rf "$0"; }
"#;

/// A directory of one server. Dropping it removes it, once the server has ended.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = base()?.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// The shell script that ends the server if this program dies before it does so itself.
    pub(crate) fn set_end(&self, script: &str) -> io::Result<()> {
        fs::write(self.join(END), script)
    }

    /// The server has ended.
    pub(crate) fn clear_end(&self) {
        // There is none when no server was started.
        let _ = fs::remove_file(self.join(END));
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be ended or removed now is left to the watchdog.
        if !self.join(END).exists() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// The directory of this program, made with its watchdog when it is first asked for.
fn base() -> io::Result<PathBuf> {
    static BASE: Mutex<Option<(PathBuf, Child)>> = Mutex::new(None);
    let mut base = BASE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((path, _)) = &*base {
        return Ok(path.clone());
    }
    let name = format!("registry-conformance-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    // Of an earlier program with this id, whose watchdog was killed as well.
    let _ = fs::remove_dir_all(&path);
    DirBuilder::new().mode(0o700).create(&path)?;
    // A group of its own: what is sent to the group of this program does not reach it.
    let watchdog = Command::new("sh")
        .args([OsStr::new("-c"), OsStr::new(WATCHDOG), path.as_os_str()])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    *base = Some((path.clone(), watchdog));
    Ok(path)
}
