//! Style that a program can check is checked by one.
//!
//! A rule looks at one file and says what is wrong in which line. Each has a test below that sees it fail.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::command::root;

/// Lines of a source file: beyond that it has more than one subject.
const MAX_LINES: usize = 500;
/// Columns of a line that rustfmt doesn't break (comments, strings, tables).
const MAX_COLUMNS: usize = 130;
/// Paths of some machine. Split, so that this file doesn't hold them.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/var/tmp/", "target")];
/// Marks of unfinished work. Split likewise.
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Folders that tools keep, the fuzzer's `corpus` and `artifacts` among them.
const BY_TOOLS: [&str; 5] = ["target", ".git", "node_modules", "corpus", "artifacts"];
/// Characters of a reason behind such a mark.
const REASON: usize = 20;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    what: String,
}

/// Checks every file of the project.
///
/// # Errors
/// When there is a finding: all have been printed by then.
pub(crate) fn run() -> Result<()> {
    let mut files = Vec::new();
    collect(root(), &mut files)?;
    files.sort();
    let mut findings = 0;
    for path in &files {
        let shown = path.strip_prefix(root()).unwrap_or(path);
        let bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
        for finding in check(shown, &bytes) {
            println!("{}:{}: {}", shown.display(), finding.line, finding.what);
            findings += 1;
        }
    }
    if findings > 0 {
        bail!("{findings} findings in {} files", files.len());
    }
    println!("tidy: {} files, nothing to say", files.len());
    Ok(())
}

/// All files below, without what is built or kept by tools.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("can't list {}", directory.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if BY_TOOLS.iter().any(|by_tool| name == *by_tool) {
            continue;
        }
        match entry.file_type()? {
            kind if kind.is_dir() => collect(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// Everything that is wrong with a file. `path` is relative to the workspace's root.
fn check(path: &Path, bytes: &[u8]) -> Vec<Finding> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return vec![Finding { line: 1, what: "a binary file: build it, don't commit it".to_owned() }];
    };
    let mut findings = name_rules(path);
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let lines = text.lines().count();
    if is_rust && lines > MAX_LINES {
        findings.push(Finding {
            line: MAX_LINES,
            what: format!("{lines} lines, {MAX_LINES} at most: split it by subject"),
        });
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(Finding { line: lines, what: "no newline at the end".to_owned() });
    }
    for (number, line) in text.lines().enumerate() {
        let mut rules = line_rules(line);
        if is_rust {
            rules.extend(rust_rules(path, line));
        }
        findings.extend(rules.into_iter().map(|what| Finding { line: number + 1, what }));
    }
    findings
}

/// A file's name tells its content.
fn name_rules(path: &Path) -> Vec<Finding> {
    let what = match path.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs") => "foo.rs beside foo/, not foo/mod.rs",
        Some("utils.rs" | "util.rs" | "helpers.rs" | "misc.rs") => "a name that doesn't tell the content",
        _ => return Vec::new(),
    };
    vec![Finding { line: 1, what: what.to_owned() }]
}

/// Rules for a line of any file.
fn line_rules(line: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if let Some(path) = MACHINE_PATHS.iter().find(|path| names_machine_path(line, path)) {
        findings.push(format!("a machine's path ({path}...)"));
    }
    if let Some(mark) = MARKS.iter().find(|mark| unfinished(line, mark)) {
        findings.push(format!("`{mark}` without a colon and a reason of {REASON} characters"));
    }
    if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
        findings.push("the mark of a merge conflict".to_owned());
    }
    findings
}

/// Whether the line names such a path, and not a longer one that only ends like it (`src/work/`).
fn names_machine_path(line: &str, path: &str) -> bool {
    line.match_indices(path)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}*".contains(c)))
}

/// Whether a comment begins with the mark and gives no reason. Elsewhere it is a name, such as a map's.
fn unfinished(line: &str, mark: &str) -> bool {
    let Some(comment) =
        ["//", "#", "<!--"].iter().find_map(|opener| line.split_once(opener)).map(|(_, rest)| rest)
    else {
        return false;
    };
    let Some(after) = comment.trim_start_matches(['/', '!', ' ']).strip_prefix(mark) else { return false };
    let reason = after.split_once(':').map_or("", |(_, reason)| reason.trim());
    !after.starts_with(char::is_alphanumeric) && reason.len() < REASON
}

/// Rules for a line of a source file.
fn rust_rules(path: &Path, line: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if line.chars().count() > MAX_COLUMNS {
        findings.push(format!("more than {MAX_COLUMNS} columns"));
    }
    if line.ends_with(' ') || line.ends_with('\t') {
        findings.push("blanks at the end".to_owned());
    }
    if line.trim_start().starts_with(concat!("#[ign", "ore]")) {
        findings.push("an ignored test without a reason".to_owned());
    }
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    if in_tests && line.contains(concat!("sle", "ep(")) && !line.contains("// not synchronisation:") {
        findings.push(
            "a sleep in a test: wait for a condition with a deadline, or say `// not synchronisation: why`"
                .to_owned(),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(Path::new(path), text.as_bytes()).into_iter().map(|finding| finding.what).collect()
    }

    #[track_caller]
    fn finds(path: &str, text: &str, what: &str) {
        let found = findings(path, text);
        assert!(found.iter().any(|finding| finding.contains(what)), "{what} not among {found:?}");
    }

    #[test]
    fn a_good_file_has_no_findings() {
        assert_eq!(findings("lab/src/net.rs", "//! Hosts.\n\nfn main() {}\n"), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_its_fault() {
        finds("a.rs", &"//\n".repeat(MAX_LINES + 1), "lines");
        finds("a.rs", "fn a() {}", "newline");
        finds("a/mod.rs", "//\n", "mod.rs");
        finds("a/utils.rs", "//\n", "content");
        finds("a.md", &format!("see {}x\n", MACHINE_PATHS[0]), "machine");
        finds("a.rs", &format!("// {}: soon\n", MARKS[0]), "reason");
        finds("a.rs", &format!("//{}\n", "x".repeat(MAX_COLUMNS)), "columns");
        finds("a.rs", "fn a() {} \n", "blanks");
        finds("a.rs", concat!("#[ign", "ore]\n"), "ignored");
        finds("tests/a.rs", concat!("sle", "ep(ONE);\n"), "sleep");
        finds("a.rs", concat!("<<<<", "<<< HEAD\n"), "conflict");
    }

    #[test]
    fn what_only_looks_like_a_fault_passes() {
        assert!(findings("a.md", &format!("src{}x\n", MACHINE_PATHS[0])).is_empty());
        assert!(
            findings("a.rs", &format!("// {}: until the kernel reports it itself\n", MARKS[0])).is_empty()
        );
        assert!(findings("a.rs", &format!("const {0}: &str = \"{0}\"; // a map\n", MARKS[0])).is_empty());
        assert!(findings("lab/src/a.rs", concat!("sle", "ep(ONE);\n")).is_empty());
    }

    #[test]
    fn a_binary_file_is_found() {
        assert_eq!(check(Path::new("a.o"), &[0xff, 0xfe]).len(), 1);
    }
}
