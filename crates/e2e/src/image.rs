//! A small image of this machine's own.

use crate::shell::sh;

/// An image that is removed when dropped.
#[derive(Debug)]
pub struct Image {
    /// What `docker images` calls it.
    pub name: String,
}

/// The server of busybox, which ends when it is told to.
const SERVE: &str = "trap 'kill $!; exit 0' TERM; httpd -f -p $PORT -h /www & wait";

impl Image {
    /// An image that says it listens on 7000, and answers with its version as JSON.
    pub fn answering(name: &str, version: &str) -> Self {
        Self::running(name, version, SERVE)
    }

    /// The same with another command line.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn running(name: &str, version: &str, line: &str) -> Self {
        let image = Self { name: name.into() };
        let made = format!(
            r#"set -e; dir=$(mktemp -d); trap 'rm -rf $dir' EXIT; mkdir $dir/bin $dir/www
cp "$(command -v busybox)" $dir/bin/busybox; ln -s busybox $dir/bin/httpd
cat >$dir/serve <<'LINE'
{line}
LINE
echo '{{"version": "{version}"}}' >$dir/www/index.html; chmod -R a+rX $dir
tar -C $dir -c . | docker import -c 'CMD ["/bin/busybox", "sh", "/serve"]' -c 'EXPOSE 7000' -c 'ENV PATH=/bin' - {name}"#
        );
        sh(&made).ok();
        image
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // What still runs of it has it a little longer.
        sh(&format!("docker rmi -f {}", self.name));
    }
}
