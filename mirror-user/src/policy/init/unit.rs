//! What systemd knows of a unit: `systemctl show`.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use super::{Found, from_pid};

/// What is asked for.
const PROPERTIES: &str = "LoadState,MainPID,ExecStart,Environment,EnvironmentFiles,WorkingDirectory,User,DynamicUser,\
                          StateDirectory,LogsDirectory,CacheDirectory,LimitNOFILE,CPUQuotaPerSecUSec,MemoryMax";

/// Reads what is known of a unit: of its process where it runs, with the unit's limits; else of the unit alone.
///
/// # Errors
/// When systemd doesn't answer, or knows no such unit.
pub fn from_unit(unit: &str) -> Result<Found> {
    let output = Command::new("systemctl")
        .args(["show", "--property", PROPERTIES, "--", unit])
        .output()
        .context("can't run systemctl: name the process instead (--from-pid)")?;
    ensure!(
        output.status.success(),
        "systemctl show {unit}: {}; name the process instead (--from-pid)",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let (of_unit, pid) = parse(unit, &String::from_utf8_lossy(&output.stdout))?;
    match pid {
        None => Ok(of_unit),
        Some(pid) => Ok(merge(of_unit, from_pid(pid)?)),
    }
}

/// A running process knows better than its unit how it was started; the unit knows its limits and folders.
fn merge(unit: Found, process: Found) -> Found {
    Found {
        source: format!("{}, {}", unit.source, process.source),
        cpu_millicores: unit.cpu_millicores.or(process.cpu_millicores),
        memory_bytes: unit.memory_bytes.or(process.memory_bytes),
        writes: [unit.writes, process.writes].concat(),
        ..process
    }
}

/// Reads the properties of a unit; and its main process, where it runs.
fn parse(unit: &str, text: &str) -> Result<(Found, Option<u32>)> {
    let properties: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let get = |name: &str| properties.get(name).copied().filter(|value| !value.is_empty());
    ensure!(get("LoadState") == Some("loaded"), "systemd knows no unit {unit}: systemctl list-units");
    let mut found = Found { source: format!("unit {unit}"), ..Found::default() };
    if let Some(arguments) = get("ExecStart").and_then(|start| between(start, "argv[]=", " ;")) {
        found.command = arguments.split_whitespace().map(str::to_owned).collect();
        found
            .notes
            .push("the unit doesn't run: its command was split at spaces, so look at quoted words".into());
    }
    for (name, value) in get("Environment").map(variables).unwrap_or_default() {
        found.environment.insert(name, value);
    }
    if let Some(files) = get("EnvironmentFiles") {
        found.notes.push(format!("the unit reads variables from {files}"));
    }
    if get("DynamicUser") == Some("yes") {
        found
            .notes
            .push("the unit has a user of the moment (DynamicUser): give the shadow a real one".into());
    } else {
        found.user = Some(get("User").unwrap_or("root").to_owned());
    }
    found.directory = Some(get("WorkingDirectory").map_or("/".into(), |path| {
        // `!` and `-` say what systemd does when it isn't there.
        PathBuf::from(path.trim_start_matches(['!', '-']))
    }));
    let folders =
        [("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log"), ("CacheDirectory", "/var/cache")];
    for (property, parent) in folders {
        let names = get(property).unwrap_or_default().split_whitespace();
        found.writes.extend(names.map(|name| PathBuf::from(parent).join(name)));
    }
    found.open_files = get("LimitNOFILE").and_then(|limit| limit.parse().ok());
    found.memory_bytes =
        get("MemoryMax").and_then(|limit| limit.parse().ok()).filter(|bytes| *bytes < 1 << 60);
    found.cpu_millicores = get("CPUQuotaPerSecUSec").and_then(cores);
    let pid = get("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0);
    Ok((found, pid))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)?;
    Some(&text[start..start + end])
}

/// Processor time a second, as systemd writes times (`1.500000s`, `500ms`, `1min 30s`), in thousandths of a core.
fn cores(text: &str) -> Option<u32> {
    let mut ms = 0.0;
    for word in text.split_whitespace() {
        let digits = word.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = word[..digits].parse().ok()?;
        ms += number
            * match &word[digits..] {
                "us" => 1e-3,
                "ms" => 1.0,
                "s" => 1e3,
                "min" => 6e4,
                _ => return None,
            };
    }
    // Saturates.
    (ms >= 1.0).then_some(ms.round() as u32)
}

/// `A=b "C=d e"`: words, of which those with a space are quoted.
fn variables(text: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let Some(word) = words.last_mut() else { break };
        match letter {
            '"' => quoted = !quoted,
            '\\' => word.extend(letters.next()),
            ' ' if !quoted => words.push(String::new()),
            letter => word.push(letter),
        }
    }
    words.iter().filter_map(|word| word.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form of `systemctl show`; some of `ExecStart` is left out.
    const SHOWN: &str = r#"LoadState=loaded
MainPID=0
ExecStart={ path=/usr/bin/shop ; argv[]=/usr/bin/shop --listen 10.0.2.2:8080 ; ignore_errors=no ; pid=0 ; code=(null) }
Environment=LANG=C "GREETING=good \"day\"" EMPTY=
EnvironmentFiles=/etc/default/shop (ignore_errors=yes)
WorkingDirectory=!/var/lib/shop
User=shop
DynamicUser=no
StateDirectory=shop shop-spool
LogsDirectory=
LimitNOFILE=524288
CPUQuotaPerSecUSec=1.500000s
MemoryMax=1073741824
"#;

    #[test]
    fn a_unit_is_read_from_what_systemctl_shows() {
        let (found, pid) = parse("shop.service", SHOWN).unwrap();
        assert_eq!(pid, None);
        assert_eq!(found.command, ["/usr/bin/shop", "--listen", "10.0.2.2:8080"]);
        assert_eq!(found.environment["GREETING"], "good \"day\"");
        assert_eq!(found.environment["EMPTY"], "");
        assert_eq!(found.directory, Some("/var/lib/shop".into()));
        assert_eq!(found.user.as_deref(), Some("shop"));
        assert_eq!(found.writes, ["/var/lib/shop", "/var/lib/shop-spool"].map(PathBuf::from));
        assert_eq!((found.open_files, found.cpu_millicores), (Some(524_288), Some(1_500)));
        assert_eq!(found.memory_bytes, Some(1 << 30));
        assert!(found.notes.iter().any(|note| note.contains("/etc/default/shop")));
    }

    #[test]
    fn what_is_not_limited_or_not_there_is_said_so() {
        let free = SHOWN
            .replace("1.500000s", "infinity")
            .replace("MemoryMax=1073741824", "MemoryMax=infinity")
            .replace("DynamicUser=no", "DynamicUser=yes")
            .replace("MainPID=0", "MainPID=77");
        let (found, pid) = parse("shop.service", &free).unwrap();
        assert_eq!((found.cpu_millicores, found.memory_bytes, pid), (None, None, Some(77)));
        assert_eq!(found.user, None);
        assert!(parse("no.service", "LoadState=not-found\n").is_err());
    }

    #[test]
    fn times_are_read_as_systemd_writes_them() {
        assert_eq!(cores("500ms"), Some(500));
        assert_eq!(cores("1min 2s"), Some(62_000));
        assert_eq!(cores("infinity"), None);
        assert_eq!(cores(""), None);
    }

    #[test]
    fn a_running_process_knows_its_start_and_its_unit_the_limits() {
        let (unit, _) = parse("shop.service", SHOWN).unwrap();
        let process = Found { command: vec!["/usr/bin/shop".into(), "a b".into()], ..Found::default() };
        let merged = merge(unit, process);
        assert_eq!(merged.command[1], "a b");
        assert_eq!(merged.cpu_millicores, Some(1_500));
        assert!(merged.notes.is_empty(), "{:?}", merged.notes);
    }
}
