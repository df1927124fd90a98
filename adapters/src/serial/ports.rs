//! The serial ports that there are, as the kernel lists them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::holder::Holder;

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// Its name of today, as in `/dev/ttyUSB0`: another one may get it tomorrow.
    pub path: PathBuf,
    /// Its names that stay, best first: those by what it is, then those by where it is plugged in.
    pub stable: Vec<PathBuf>,
    /// What is plugged in, where that is USB.
    pub usb: Option<Usb>,
    /// Who has it open, where that can be seen.
    pub holder: Option<Holder>,
    /// Whether this user may open it.
    pub access: Access,
}

/// A device on USB, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usb {
    /// The vendor's number, four hexadecimal digits.
    pub vendor: String,
    /// The product's number.
    pub product: String,
    /// The names of both.
    pub names: String,
    /// The serial number, where it has one.
    pub serial: Option<String>,
}

/// Whether a port may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Granted,
    /// No; members of this group may, where it is one.
    Denied {
        /// The group's name, or its number.
        group: Option<String>,
    },
}

impl PortInfo {
    /// The name to configure: one that stays, where there is one.
    pub fn best_name(&self) -> &Path {
        self.stable.first().unwrap_or(&self.path)
    }

    /// Whether `port`, as somebody has configured it, is this one.
    pub fn is_called(&self, port: &Path) -> bool {
        self.path == port
            || self.stable.iter().any(|name| name == port)
            || port.canonicalize().is_ok_and(|device| device == self.path)
    }
}

/// All serial ports with a device behind them, by name. `root` is `/`, or what stands for it.
pub fn ports(root: &Path) -> Vec<PortInfo> {
    let Ok(entries) = fs::read_dir(root.join("sys/class/tty")) else { return Vec::new() };
    let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let mut ports: Vec<_> = names.filter_map(|name| port(root, &name)).collect();
    ports.sort_by(|one, other| one.path.cmp(&other.path));
    ports
}

fn port(root: &Path, name: &str) -> Option<PortInfo> {
    let class = root.join("sys/class/tty").join(name);
    // Consoles and pseudo terminals have no device; ports of the mainboard that are not there have no type.
    let device = class.join("device").canonicalize().ok()?;
    if text(&class.join("type")).is_some_and(|kind| kind == "0") {
        return None;
    }
    let path = root.join("dev").join(name);
    let stable =
        ["by-id", "by-path"].iter().flat_map(|kind| links_to(&root.join("dev/serial").join(kind), name));
    Some(PortInfo {
        stable: stable.collect(),
        usb: device.ancestors().find_map(usb),
        holder: Holder::of(&path),
        access: access(root, &path),
        path,
    })
}

/// The links in a folder to the device of this name.
fn links_to(folder: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let links = entries.filter_map(Result::ok).map(|entry| entry.path());
    let leads_there =
        |link: &PathBuf| fs::read_link(link).is_ok_and(|to| to.file_name().is_some_and(|to| to == name));
    let mut links: Vec<_> = links.filter(leads_there).collect();
    links.sort();
    links
}

/// What a folder of the kernel's tree says of a USB device, where it is one.
fn usb(folder: &Path) -> Option<Usb> {
    let of = |name: &str| text(&folder.join(name));
    let (vendor, product) = (of("idVendor")?, of("idProduct")?);
    let names: Vec<_> = [of("manufacturer"), of("product")].into_iter().flatten().collect();
    Some(Usb { vendor, product, names: names.join(" "), serial: of("serial") })
}

/// A short text that the kernel, or the device through it, tells; without what would disturb a terminal.
fn text(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(256).collect();
    (!text.is_empty()).then_some(text)
}

fn access(root: &Path, path: &Path) -> Access {
    use rustix::fs::{Access as Mode, access};
    if access(path, Mode::READ_OK | Mode::WRITE_OK).is_ok() {
        return Access::Granted;
    }
    let file = fs::metadata(path).ok();
    // Where the group may read and write, to be in it is the cure.
    let group = file.filter(|file| file.mode() & 0o060 == 0o060).map(|file| file.gid());
    Access::Denied { group: group.map(|group| group_name(root, group)) }
}

fn group_name(root: &Path, group: u32) -> String {
    let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
    let number = group.to_string();
    let named = groups.lines().find_map(|line| {
        let mut parts = line.split(':');
        let (name, _, found) = (parts.next()?, parts.next()?, parts.next()?);
        (found == number).then(|| name.to_owned())
    });
    named.unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine with a converter on USB, a port of the mainboard, one that is not there, and a console.
    fn machine() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, content: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let usb = "sys/devices/pci0/usb1/1-2";
        write(&format!("{usb}/idVendor"), "0403\n");
        write(&format!("{usb}/idProduct"), "6001\n");
        write(&format!("{usb}/manufacturer"), "FTDI\n");
        write(&format!("{usb}/product"), "USB-RS485\x1b[2J Cable\n");
        write(&format!("{usb}/serial"), "AB0CD1EF\n");
        write(&format!("{usb}/1-2:1.0/ttyUSB0/port_number"), "0\n");
        write("sys/devices/platform/serial8250/uevent", "");
        for (name, device, kind) in [
            ("ttyUSB0", Some("pci0/usb1/1-2/1-2:1.0/ttyUSB0"), None),
            ("ttyS0", Some("platform/serial8250"), Some("4\n")),
            ("ttyS1", Some("platform/serial8250"), Some("0\n")),
            ("tty1", None, None),
        ] {
            write(&format!("sys/class/tty/{name}/uevent"), "");
            if let Some(kind) = kind {
                write(&format!("sys/class/tty/{name}/type"), kind);
            }
            if let Some(device) = device {
                symlink(
                    root.join("sys/devices").join(device),
                    root.join(format!("sys/class/tty/{name}/device")),
                )
                .unwrap();
            }
            write(&format!("dev/{name}"), "");
        }
        for link in ["by-id/usb-FTDI_USB-RS485_Cable_AB0CD1EF-if00-port0", "by-path/pci-0-usb-0:2:1.0-port0"]
        {
            let link = root.join("dev/serial").join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink("../../ttyUSB0", link).unwrap();
        }
        write("etc/group", "root:x:0:\ndialout:x:20:alice\n");
        folder
    }

    #[test]
    fn ports_have_names_that_stay() {
        let folder = machine();
        let root = folder.path();
        let found = ports(root);
        let names: Vec<_> =
            found.iter().map(|port| port.path.strip_prefix(root).unwrap().to_owned()).collect();
        assert_eq!(names, [Path::new("dev/ttyS0"), Path::new("dev/ttyUSB0")]);
        let (board, converter) = (&found[0], &found[1]);
        assert_eq!((board.best_name(), &board.usb), (board.path.as_path(), &None));
        assert!(converter.best_name().ends_with("usb-FTDI_USB-RS485_Cable_AB0CD1EF-if00-port0"));
        assert_eq!(converter.stable.len(), 2);
        let usb = converter.usb.as_ref().unwrap();
        assert_eq!((usb.vendor.as_str(), usb.product.as_str()), ("0403", "6001"));
        assert_eq!(
            (usb.names.as_str(), usb.serial.as_deref()),
            ("FTDI USB-RS485[2J Cable", Some("AB0CD1EF"))
        );
        for name in [&converter.path, &converter.stable[0], &converter.stable[1]] {
            assert!(converter.is_called(name) && !board.is_called(name), "{name:?}");
        }
        assert_eq!(found[0].holder, None);
        assert_eq!(ports(&root.join("nowhere")), []);
    }

    #[test]
    fn who_may_not_open_a_port_learns_which_group_may() {
        let folder = machine();
        let port = folder.path().join("dev/ttyS0");
        assert_eq!(access(folder.path(), &port), Access::Granted);
        assert_eq!(access(folder.path(), &folder.path().join("dev/none")), Access::Denied { group: None });
        assert_eq!(group_name(folder.path(), 20), "dialout");
        assert_eq!(group_name(folder.path(), 21), "21");
    }
}
