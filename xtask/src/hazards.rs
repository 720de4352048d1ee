//! docs/HAZARDS.md: what goes wrong, the rule, and the tests that say in their doc comments which hazard they show.
//!
//! Hazard, rule and what is open are written in the document itself; its column of tests is made from the sources. A hazard
//! without a test must say why it is open.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

/// In docs/.
pub(crate) const NAME: &str = "HAZARDS.md";

/// Where tests are.
const FOLDERS: &[&str] = &["lab", "mirror-common", "mirror-control", "mirror-user", "tests"];

/// The tests of each hazard: file and function, or a file alone.
type Tests = BTreeMap<String, Vec<String>>;

/// The document as the sources say, from what it says itself.
///
/// # Errors
/// When a test names a hazard that the document hasn't got, or a hazard has neither a test nor a reason; or a file can't be
/// read.
pub(crate) fn made(document: &str, root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut tests = Tests::new();
    for path in &files {
        let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
        named(&shown, &text, &mut tests);
    }
    filled(document, tests)
}

/// Rust files below, without what is built.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The numbers that a doc comment begins with: `T14, H2: …`, or `C6.` alone. None: it begins otherwise.
fn numbers(comment: &str) -> Vec<&str> {
    let end = comment.find([':', '.']).unwrap_or(comment.len());
    let numbers: Vec<&str> = comment[..end].split(", ").collect();
    let is_number = |word: &&str| {
        let digits = word.strip_prefix(['T', 'H', 'C']).unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    if numbers.iter().all(is_number) { numbers } else { Vec::new() }
}

/// Notes what a file's doc comments name.
fn named(file: &str, text: &str, tests: &mut Tests) {
    let mut note = |number: &str, test: String| tests.entry(number.to_owned()).or_default().push(test);
    let mut pending: Vec<&str> = Vec::new();
    let mut before = "";
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("//! ") {
            numbers(comment).into_iter().for_each(|number| note(number, format!("`{file}`")));
        } else if let Some(comment) = line.strip_prefix("/// ") {
            if !before.starts_with("///") {
                pending = numbers(comment);
            }
        } else if let Some(function) = function(line) {
            for number in pending.drain(..) {
                note(number, format!("`{file}` {function}"));
            }
        }
        before = line;
    }
}

/// The name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let name = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn "))?;
    name.split(['(', '<']).next()
}

/// The document with its column of tests filled anew.
fn filled(document: &str, mut tests: Tests) -> Result<String> {
    let mut text = String::with_capacity(document.len());
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        // A number, hazard, rule, tests and what is open, between bars.
        if let [_, number, hazard, rule, _, open, _] = cells[..]
            && !numbers(number).is_empty()
        {
            let found = tests.remove(number).unwrap_or_default();
            ensure!(
                !found.is_empty() || !open.is_empty(),
                "{number} has no test, and docs/{NAME} doesn't say why"
            );
            let found = found.join("; ");
            text += &format!("| {number} | {hazard} | {rule} | {found} | {open} |\n");
        } else {
            text += line;
            text += "\n";
        }
    }
    if let Some((number, places)) = tests.first_key_value() {
        bail!("{} shows {number}, which docs/{NAME} hasn't got", places.join(" and "));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "//! T9: all of it.\n\n/// T1, H22: one.\n/// T5: is no number's place.\n#[test]\npub fn one<T>() {}\n\n\
                          /// Two, of T3.\nfn two() {}\n/// C6.\nasync fn three() {}\nfn four() {}\n";

    fn found() -> Tests {
        let mut tests = Tests::new();
        named("a.rs", SOURCE, &mut tests);
        tests
    }

    #[test]
    fn doc_comments_name_hazards_at_their_begin() {
        let seen: Vec<(String, String)> =
            found().into_iter().map(|(number, tests)| (number, tests.join(";"))).collect();
        let expected =
            [("C6", "`a.rs` three"), ("H22", "`a.rs` one"), ("T1", "`a.rs` one"), ("T9", "`a.rs`")];
        assert_eq!(seen, expected.map(|(number, test)| (number.to_owned(), test.to_owned())));
    }

    #[test]
    fn the_column_of_tests_is_made_anew() {
        let row =
            |number: &str, tests: &str, open: &str| format!("| {number} | a | b | {tests} | {open} |\n");
        let rows = |tests: [&str; 4]| {
            let all =
                ["C6", "H22", "T1", "T9"].iter().zip(tests).map(|(number, tests)| row(number, tests, ""));
            format!("# Title\n\n{}", all.collect::<String>())
        };
        let made = filled(&rows(["old"; 4]), found()).expect("every number has a row");
        assert_eq!(made, rows(["`a.rs` three", "`a.rs` one", "`a.rs` one", "`a.rs`"]));
        assert!(filled(&rows([""; 4]), Tests::new()).is_err(), "no test, and no reason");
        assert!(filled(&row("T1", "", ""), found()).is_err(), "a number without a row");
        let open = row("T2", "", "not built");
        assert_eq!(filled(&open, Tests::new()).expect("open"), open);
    }
}
