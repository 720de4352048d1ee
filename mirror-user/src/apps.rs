//! Which application a command that only reads is about: the one that is named, or the only one there is. What moves or ends
//! something always names it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::api::{Client, Status};

/// The application that is `named`, or the only one among `known`.
///
/// # Errors
/// When there is none of that name, none at all, or several and none is named: then all of them are.
pub fn choose<'a>(known: &[&'a str], named: Option<&str>) -> Result<&'a str> {
    match (named, known) {
        (_, []) => bail!("there is no application here"),
        (None, [only]) => Ok(only),
        (None, several) => bail!("there are several applications here, name one: {}", several.join(", ")),
        (Some(named), _) => known
            .iter()
            .find(|known| **known == named)
            .copied()
            .with_context(|| format!("no application {named} here; there is {}", known.join(", "))),
    }
}

impl Status {
    /// Its applications' names.
    pub fn names(&self) -> Vec<&str> {
        self.apps.iter().map(|app| app.name.as_str()).collect()
    }
}

/// The application that is `named`, or the only one that the daemon has.
///
/// # Errors
/// As [`choose`], or when the daemon can't be reached.
pub async fn running(client: &Client, named: Option<&str>) -> Result<String> {
    let status = client.get::<Status>("/status").await?;
    Ok(choose(&status.names(), named)?.to_owned())
}

/// The application that is `named`, or the only one of which something is kept in the folder: `of` makes a name of an entry's,
/// where it is such a thing. One that is named need not be there: who reads it says what is missing.
///
/// # Errors
/// As [`choose`], or when the folder can't be read.
pub fn kept(folder: &Path, named: Option<&str>, of: impl Fn(&Path) -> Option<String>) -> Result<String> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let entries = folder.read_dir().with_context(|| format!("can't read {}", folder.display()))?;
    let mut known: Vec<String> = entries.filter_map(|entry| of(&entry.ok()?.path())).collect();
    known.sort();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    choose(&known, None).map(str::to_owned).with_context(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal;

    #[test]
    fn the_only_one_needs_no_name_and_of_several_all_are_named() {
        fn said<'a>(known: &[&'a str], named: Option<&str>) -> Result<&'a str, String> {
            choose(known, named).map_err(|error| error.to_string())
        }
        assert_eq!(said(&["shop"], None), Ok("shop"));
        assert_eq!(said(&["shop", "blog"], Some("blog")), Ok("blog"));
        let several = "there are several applications here, name one: shop, blog";
        assert_eq!(said(&["shop", "blog"], None), Err(several.to_owned()));
        let unknown = "no application shoe here; there is shop, blog";
        assert_eq!(said(&["shop", "blog"], Some("shoe")), Err(unknown.to_owned()));
        for named in [None, Some("shop")] {
            assert_eq!(said(&[], named), Err("there is no application here".to_owned()));
        }
    }

    #[test]
    fn what_a_folder_keeps_is_found_by_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let said = |named| kept(folder.path(), named, journal::app_of).map_err(|error| format!("{error:#}"));
        assert!(said(None).unwrap_err().ends_with("there is no application here"));
        std::fs::write(folder.path().join("blog.series"), "").unwrap();
        std::fs::write(folder.path().join("shop.journal"), "").unwrap();
        assert_eq!(said(None), Ok("shop".to_owned()));
        std::fs::write(folder.path().join("blog.journal"), "").unwrap();
        assert!(said(None).unwrap_err().ends_with("name one: blog, shop"));
        assert_eq!(said(Some("shoe")), Ok("shoe".to_owned()), "who reads it says what is missing");
    }
}
