//! apt with state of its own: nothing of the machine's package database is read or changed, and no right is needed.

use super::Wanted;
use super::lock::{Package, Set, sha256};
use crate::project;
use crate::run::quiet;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const HELPER: &str = "/usr/lib/apt/apt-helper";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirror of Debian's main archive that the machine's own apt sources name.
pub fn mirror() -> Result<String> {
    let listed = quiet(Command::new("apt-get").args(["--print-uris", "update"]))
        .context("asking apt for its mirror")?;
    let suites = [
        "stable",
        "oldstable",
        "testing",
        "unstable",
        "sid",
        "bookworm",
        "trixie",
        "forky",
    ];
    for line in listed.lines() {
        let Some(uri) = line.strip_prefix('\'').and_then(|l| l.split('\'').next()) else {
            continue;
        };
        let Some((base, rest)) = uri.split_once("/dists/") else {
            continue;
        };
        let suite = rest.split('/').next().unwrap_or_default();
        if suites.contains(&suite) && !base.contains("security") {
            return Ok(base.to_owned());
        }
    }
    bail!("this machine's apt sources name no Debian mirror")
}

/// Downloads one pinned file, checking it.
pub fn download(mirror: &str, package: &Package, into: &Path) -> Result<()> {
    let uri = format!("{mirror}/{}", package.path);
    let to = into.join(package.file());
    let mut helper = Command::new(HELPER);
    helper.args([
        "-o",
        "Acquire::Retries=3",
        "-o",
        "APT::Sandbox::User=root",
        "-qq",
        "download-file",
    ]);
    helper
        .arg(&uri)
        .arg(&to)
        .arg(format!("SHA256:{}", package.sha256));
    if let Err(error) = quiet(&mut helper) {
        let _ = fs::remove_file(&to);
        let text = format!("{error:#}");
        if text.contains("404") {
            bail!(
                "the mirror no longer has {} {}; `cargo xtask fetch --update` renews the pins",
                package.name,
                package.version
            );
        }
        let reason = text
            .lines()
            .find(|l| l.starts_with("E: "))
            .unwrap_or("no answer")
            .to_owned();
        bail!("{} cannot be downloaded ({reason})", package.name);
    }
    if !package.is_in(into) {
        bail!("{} is not what was pinned", package.file());
    }
    Ok(())
}

/// A private apt for some suites.
struct Apt {
    options: Vec<String>,
    archives: PathBuf,
}

impl Apt {
    fn new(wanted: &Wanted) -> Result<Apt> {
        let home = project::clients().join("apt").join(wanted.suite);
        let archives = home.join("archives");
        fs::create_dir_all(home.join("lists/partial"))?;
        fs::create_dir_all(archives.join("partial"))?;
        fs::write(home.join("status"), "")?;
        let (mirror, sources) = (mirror()?, home.join("sources.list"));
        let mut text = String::new();
        for suite in std::iter::once(&wanted.suite).chain(wanted.also) {
            text += &format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        }
        fs::write(&sources, text)?;
        let home = home.display();
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            "Dir::Etc::preferences=/dev/null".into(),
            format!("Dir::State={home}"),
            format!("Dir::State::Lists={home}/lists"),
            format!("Dir::State::status={home}/status"),
            format!("Dir::Cache={home}"),
            format!("Dir::Cache::Archives={home}/archives"),
            "APT::Install-Recommends=false".into(),
            "APT::Architecture=amd64".into(),
            "APT::Architectures=amd64".into(),
            format!("APT::Default-Release={}", wanted.suite),
            "APT::Sandbox::User=root".into(),
            "Acquire::Retries=3".into(),
            "Debug::NoLocking=true".into(),
        ];
        let options = options
            .into_iter()
            .flat_map(|o| ["-o".to_owned(), o])
            .collect();
        Ok(Apt { options, archives })
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        quiet(
            Command::new("apt-get")
                .args(&self.options)
                .args(args)
                .current_dir(&self.archives),
        )
    }
}

/// The newest files of a set, downloaded and checked by apt's own signatures.
pub fn resolve(wanted: &Wanted) -> Result<Set> {
    let apt = Apt::new(wanted)?;
    apt.run(&["update", "-qq"])?;
    let action: &[&str] = if wanted.dependencies {
        &["install", "-y"]
    } else {
        &["download"]
    };
    let listed = apt.run(&[action, &["-qq", "--print-uris"], wanted.packages].concat())?;
    let mirror = mirror()?;
    let cache = project::clients().join("packages");
    fs::create_dir_all(&cache)?;
    let mut packages = Vec::new();
    for line in listed.lines().filter(|l| l.starts_with('\'')) {
        // 'URI' FILE SIZE HASH
        let fields: Vec<_> = line.split_whitespace().collect();
        let uri = fields
            .first()
            .context("apt printed an empty line")?
            .trim_matches('\'');
        let path = uri
            .strip_prefix(&format!("{mirror}/"))
            .context("a package outside the mirror")?
            .to_owned();
        let file = path
            .rsplit('/')
            .next()
            .context("a package without a name")?;
        // A mirror's paths have a plus sign escaped, in names too.
        let name = file
            .split('_')
            .next()
            .unwrap_or_default()
            .replace("%2b", "+");
        if !wanted.keeps(&name) {
            continue;
        }
        let known = cache.join(file);
        if !known.exists() {
            apt.run(&["download", "-qq", &name])?;
            let downloaded = fields.get(1).context("apt printed no file name")?;
            fs::rename(apt.archives.join(downloaded), &known)?;
        }
        let part = |field: &str| {
            quiet(Command::new("dpkg-deb").arg("-f").arg(&known).arg(field))
                .map(|s| s.trim().to_owned())
        };
        packages.push(Package {
            version: part("Version")?,
            arch: part("Architecture")?,
            size: fs::metadata(&known)?.len(),
            sha256: sha256(&known)?,
            name,
            path,
        });
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Set {
        name: wanted.name.to_owned(),
        packages,
    })
}
