//! The instance's own files: copies with their owners, modes and times, and empty folders.

use std::{
    fs::{self, File, FileTimes, Metadata},
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::statvfs;

use crate::moves::fault;

/// Files and folders in one copy at most.
const MOST: usize = 1 << 20;

/// Copies a file, or a folder with all that is in it. Sockets, pipes and devices are left out: they are of the processes
/// that made them. What an earlier attempt has left at `own` is removed first.
///
/// # Errors
/// When something can't be read or written, or the room isn't enough.
pub(super) fn copy(at: &Path, own: &Path) -> Result<()> {
    remove(own)?;
    ensure!(!own.starts_with(at), "{} can't be copied into itself", at.display());
    let entries = entries(at)?;
    let bytes: u64 = entries.iter().filter(|(_, meta)| meta.is_file()).map(|(_, meta)| meta.len()).sum();
    let parent = own.parent().context("a copy at the root")?;
    fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
    let room = statvfs(parent).with_context(|| format!("can't look at {}", parent.display()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    ensure!(
        bytes <= free,
        "{} has {bytes} bytes, and there are {free} free for {}",
        at.display(),
        parent.display()
    );
    for (from, meta) in &entries {
        // Within the tree by construction.
        let below = from.strip_prefix(at)?;
        let to = if below.as_os_str().is_empty() { own.to_owned() } else { own.join(below) };
        copy_one(from, meta, &to).with_context(|| format!("can't copy {}", from.display()))?;
    }
    fault("provision-copy-bare");
    // A folder's times and mode only after what was written into it.
    for (from, meta) in entries.iter().rev().filter(|(_, meta)| meta.is_dir()) {
        let to = own.join(from.strip_prefix(at)?);
        dress(&to, meta).with_context(|| format!("can't set owner and mode of {}", to.display()))?;
    }
    Ok(())
}

/// Everything in a tree that is copied, folders before what is in them.
fn entries(at: &Path) -> Result<Vec<(PathBuf, Metadata)>> {
    // The place itself may be a link; links in it are copied as links.
    let meta = fs::metadata(at).with_context(|| format!("can't look at {}", at.display()))?;
    let mut found = vec![(at.to_owned(), meta)];
    let mut next = 0;
    while let Some((path, meta)) = found.get(next).cloned() {
        next += 1;
        if !meta.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).with_context(|| format!("can't list {}", path.display()))? {
            let path = entry?.path();
            match fs::symlink_metadata(&path) {
                Ok(meta) if special(&meta) => {}
                Ok(meta) => found.push((path, meta)),
                // The primary runs meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("can't look at {}", path.display())),
            }
        }
        ensure!(found.len() <= MOST, "{} has more than {MOST} files", at.display());
    }
    Ok(found)
}

fn special(meta: &Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device()
}

fn copy_one(from: &Path, meta: &Metadata, to: &Path) -> Result<()> {
    if meta.is_dir() {
        return Ok(fs::create_dir(to)?);
    }
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        return Ok(lchown(to, Some(meta.uid()), Some(meta.gid()))?);
    }
    match fs::copy(from, to) {
        // The primary has removed it meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        copied => {
            copied?;
            dress(to, meta)
        }
    }
}

/// Gives a file or folder the owner, mode and times of another.
fn dress(to: &Path, meta: &Metadata) -> Result<()> {
    chown(to, Some(meta.uid()), Some(meta.gid()))?;
    // After the owner: changing that takes set-user-ID bits away.
    fs::set_permissions(to, fs::Permissions::from_mode(meta.permissions().mode()))?;
    let times = FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?);
    Ok(File::open(to)?.set_times(times)?)
}

/// Makes an empty folder with the owner and mode of another.
///
/// # Errors
/// When that isn't a folder, or the kernel refuses.
pub(super) fn empty(at: &Path, own: &Path) -> Result<()> {
    remove(own)?;
    let meta = fs::metadata(at).with_context(|| format!("can't look at {}", at.display()))?;
    if !meta.is_dir() {
        bail!("{} is no folder", at.display());
    }
    fs::create_dir_all(own).with_context(|| format!("can't make {}", own.display()))?;
    dress(own, &meta).with_context(|| format!("can't set owner and mode of {}", own.display()))
}

/// Removes a file or folder; one that isn't there is fine.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("can't remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_copy_has_contents_modes_and_links_and_writes_into_it_do_not_reach_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let (at, own) = (folder.path().join("at"), folder.path().join("own/0"));
        fs::create_dir_all(at.join("in/deep")).unwrap();
        fs::write(at.join("in/deep/file"), "text").unwrap();
        fs::set_permissions(at.join("in/deep/file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(at.join("in"), fs::Permissions::from_mode(0o550)).unwrap();
        symlink("deep/file", at.join("in/link")).unwrap();
        let _socket = UnixListener::bind(at.join("socket")).unwrap();
        copy(&at, &own).unwrap();
        assert_eq!(fs::read_to_string(own.join("in/link")).unwrap(), "text");
        assert_eq!(own.join("in/deep/file").metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(own.join("in").metadata().unwrap().permissions().mode() & 0o777, 0o550);
        assert_eq!(at.metadata().unwrap().modified().unwrap(), own.metadata().unwrap().modified().unwrap());
        assert!(!own.join("socket").exists());
        fs::write(own.join("in/deep/file"), "other").unwrap();
        assert_eq!(fs::read_to_string(at.join("in/deep/file")).unwrap(), "text");
        copy(&at, &own).unwrap();
        assert_eq!(
            fs::read_to_string(own.join("in/deep/file")).unwrap(),
            "text",
            "a second attempt starts anew"
        );
        fs::set_permissions(at.join("in"), fs::Permissions::from_mode(0o750)).unwrap();
    }

    #[test]
    fn a_copy_into_itself_and_one_of_nothing_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = copy(folder.path(), &folder.path().join("own")).unwrap_err();
        assert!(error.to_string().contains("into itself"), "{error}");
        assert!(copy(&folder.path().join("no"), &folder.path().join("own")).is_err());
        fs::write(folder.path().join("file"), "").unwrap();
        let error = empty(&folder.path().join("file"), &folder.path().join("own")).unwrap_err();
        assert!(error.to_string().contains("is no folder"), "{error}");
    }
}
