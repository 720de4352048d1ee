//! Which hook a device gets, and the links that keep the programs there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    maps::{DevMapHash, Map},
    programs::{
        ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::TcAttachOptions,
    },
};
use mirror_common::abi::maps;

use super::Datapath;
use crate::{
    device::{
        self, Driver, HIDES_VLANS,
        xdp::{VETH_ADVICE, features},
    },
    policy::Hook,
    tap,
};

/// Where a device's link is pinned. A bpf file system takes no dots, and a device's name has no colon.
fn pin_of(pins: &Path, hook: &str, device: &str) -> PathBuf {
    pins.join("links").join(format!("{hook}:{}", device.replace('.', ":")))
}

/// What `hook = "auto"` makes of a driver: whether XDP is tried, and why.
fn worth_trying(driver: &Result<Driver>) -> (bool, String) {
    match driver {
        Ok(Driver { name, on_bus: true }) => (true, format!("{name} is a card's driver")),
        Ok(Driver { name, on_bus: false }) => (false, format!("{name} would build frames only for XDP")),
        Err(error) => (false, format!("{error:#}")),
    }
}

/// What leaves is redirected from one device to another; a driver that takes nothing so would drop each packet of a connection.
/// To be asked behind the attaching: some take it only with a program of their own.
fn takes_redirected(device: &str) -> Result<()> {
    // What isn't told can't be judged.
    let takes = features(tap::index(device)?).map_or(true, |features| features.takes);
    ensure!(takes, "no XDP at {device}: it drops what is redirected to it (of a veth {VETH_ADVICE})");
    Ok(())
}

/// Puts a new program behind the link that is pinned for a device, if there is one. False: there is none, or it was of a
/// device that is no more, and the pin is free.
fn adopt(
    pin: &Path,
    device: &str,
    replace: impl FnOnce(FdLink) -> Result<Result<(), ProgramError>>,
) -> Result<bool> {
    if !pin.exists() {
        return Ok(false);
    }
    let link = PinnedLink::from_pin(pin).context("can't open the pinned link")?;
    match replace(link.into())? {
        Ok(()) => return Ok(true),
        Err(error) => {
            let pin = pin.display();
            tracing::warn!("the link {pin}, pinned for {device}, is of a device that is no more: {error}");
        }
    }
    fs::remove_file(pin)?;
    Ok(false)
}

impl Datapath {
    /// Attaches to a device, at TC ingress in any case and before that at XDP where `hook` says so; links that are pinned
    /// get the new programs. `hides_vlans`: the device takes the tags off frames of VLANs above it. Returns the hook and why, in
    /// words.
    ///
    /// # Errors
    /// When the kernel refuses, or would attach in a way that ends with the daemon; or XDP is wanted where VLANs are hidden.
    pub fn attach(&mut self, device: &str, hook: Hook, hides_vlans: bool) -> Result<String> {
        self.attach_tc(device)?;
        let (wanted, why) = match hook {
            Hook::Tc => (false, "by policy".to_owned()),
            Hook::Xdp if hides_vlans => {
                bail!("no XDP at {device}: {HIDES_VLANS} (ethtool -K {device} rxvlan off)")
            }
            Hook::Xdp => (true, "by policy".to_owned()),
            Hook::Auto => match worth_trying(&device::driver(device)) {
                (true, _) if hides_vlans => {
                    (false, format!("{HIDES_VLANS} (ethtool -K {device} rxvlan off)"))
                }
                choice => choice,
            },
        };
        if !wanted {
            self.leave_xdp(device)?;
            return Ok(format!("{device}: TC, {why}"));
        }
        let attached = self.attach_xdp(device).and_then(|()| takes_redirected(device));
        let Err(error) = attached else { return Ok(format!("{device}: XDP, {why}")) };
        self.leave_xdp(device)?;
        if hook == Hook::Auto {
            return Ok(format!("{device}: TC, its driver refuses XDP ({error:#})"));
        }
        Err(error)
    }

    fn attach_tc(&mut self, device: &str) -> Result<()> {
        let pin = pin_of(&self.pins, "tc", device);
        let program: &mut SchedClassifier =
            self.bpf.program_mut("mirror_tc").context("mirror_tc")?.try_into()?;
        // Our handle is dropped: the pin keeps the link.
        let adopted = adopt(&pin, device, |link| {
            Ok(program.attach_to_link(link.try_into()?).and_then(|id| program.take_link(id)).map(drop))
        })?;
        if adopted {
            return Ok(());
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(device, TcAttachType::Ingress, options).with_context(|| {
            format!("can't attach to {device}: does it exist here? (ip link show {device})")
        })?;
        let link: FdLink = program
            .take_link(id)?
            .try_into()
            .context("this kernel attached without a link; 6.6 and later have TCX")?;
        link.pin(&pin).with_context(|| format!("can't pin the link of {device}"))?;
        Ok(())
    }

    /// TC must believe the device's metadata before the first frame has some.
    fn attach_xdp(&mut self, device: &str) -> Result<()> {
        let index = tap::index(device)?;
        self.devices()?
            .insert(index, index, None, 0)
            .with_context(|| format!("can't redirect to {device}"))?;
        let pin = pin_of(&self.pins, "xdp", device);
        let program: &mut Xdp = self.bpf.program_mut("mirror_xdp").context("mirror_xdp")?.try_into()?;
        if program.fd().is_err() {
            program.load().context("the kernel refuses mirror_xdp")?;
        }
        let adopted = adopt(&pin, device, |link| {
            Ok(program.attach_to_link(link.try_into()?).and_then(|id| program.take_link(id)).map(drop))
        })?;
        if adopted {
            return Ok(());
        }
        let id = program
            .attach(device, XdpMode::Driver)
            .with_context(|| format!("can't attach native XDP to {device}"))?;
        let Ok(link) = FdLink::try_from(program.take_link(id)?) else {
            bail!("this kernel attached XDP to {device} without a link");
        };
        link.pin(&pin).with_context(|| format!("can't pin the XDP link of {device}"))?;
        Ok(())
    }

    /// Takes an earlier policy's XDP away; only then TC stops to believe metadata.
    fn leave_xdp(&mut self, device: &str) -> Result<()> {
        let pin = pin_of(&self.pins, "xdp", device);
        if pin.exists() {
            fs::remove_file(&pin).with_context(|| format!("can't take XDP off {device}"))?;
        }
        let index = tap::index(device)?;
        let mut devices = self.devices()?;
        if devices.get(index, 0).is_ok() {
            devices.remove(index)?;
        }
        Ok(())
    }

    fn devices(&mut self) -> Result<DevMapHash<&mut aya::maps::MapData>> {
        let map: &mut Map = self.map(maps::DEVICES)?;
        Ok(DevMapHash::try_from(map)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_no_dots_and_are_told_apart() {
        let pins = Path::new("/p");
        assert_eq!(pin_of(pins, "tc", "eth0.100"), Path::new("/p/links/tc:eth0:100"));
        assert_ne!(pin_of(pins, "tc", "eth0"), pin_of(pins, "xdp", "eth0"));
    }

    #[test]
    fn only_cards_get_xdp_unasked() {
        let driver = |name: &str, on_bus| Ok(Driver { name: name.into(), on_bus });
        assert!(worth_trying(&driver("ice", true)).0);
        assert!(!worth_trying(&driver("veth", false)).0);
        assert!(!worth_trying(&Err(anyhow::anyhow!("silent"))).0);
    }
}
