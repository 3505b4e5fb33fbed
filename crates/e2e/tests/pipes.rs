//! slugbuilder and slugrunner without a cluster, as typed in `examples/README.md`: an engine and the two images, no key, no
//! network of ours.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use e2e::shell::{Said, run};
use tempfile::TempDir;

/// Starting a container and its app.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository, with a container of which nothing is left when the test ends.
struct Folder {
    dir: TempDir,
    name: String,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let (dir, name) = (TempDir::new().unwrap(), format!("pipes-{:08x}", rand::random::<u32>()));
        let folder = Self { dir, name };
        for (file, text) in files {
            let path = folder.dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder.sh("git init -q -b master .").ok();
        folder.commit();
        folder
    }

    fn commit(&self) {
        let who = "-c user.name=Tester -c user.email=tester@example.com";
        self.sh(&format!("git add -A && git {who} commit -q -m change")).ok();
    }

    fn sh(&self, line: &str) -> Said {
        run(self.dir.path(), &["bash", "-o", "pipefail", "-c", line])
    }

    /// A line of the documentation, whose container gets a name that can be removed.
    fn type_(&self, line: &str) -> Said {
        self.sh(&line.replace("docker run", &format!("docker run --name {}", self.name)))
    }

    fn remove(&self) {
        run(Path::new("/"), &["docker", "rm", "-f", &self.name]);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.remove();
    }
}

const SITE: &str = "import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (os.environ['GREETING'] + ' from the slug').encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(('0.0.0.0', int(os.environ['PORT'])), Handler).serve_forever()
";

fn site() -> Folder {
    Folder::new(&[("Procfile", "web: GREETING=hello exec python3 site.py\n"), ("site.py", SITE)])
}

/// The container's id is what `docker run -a stdin` prints; since Docker 28 it no longer does, and `--cidfile` has it.
fn build_line() -> &'static str {
    let client =
        run(Path::new("/"), &["docker", "version", "--format", "{{.Client.Version}}"]).ok();
    let major: u32 = client.split('.').next().unwrap().parse().unwrap();
    if major < 28 {
        "id=$(git archive master | docker run -i -a stdin flynn/slugbuilder)"
    } else {
        "git archive master | docker run --cidfile id -i -a stdin flynn/slugbuilder; id=$(cat id)"
    }
}

/// Asks until it answers.
fn get(port: u16) -> String {
    let begun = Instant::now();
    loop {
        let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut connection| {
            connection.set_read_timeout(Some(Duration::from_secs(5)))?;
            connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer)?;
            Ok(answer)
        });
        match asked {
            Ok(answer) if !answer.is_empty() => return answer,
            asked => assert!(begun.elapsed() < PATIENCE, "nothing serves on {port}: {asked:?}"),
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_tree_goes_in_and_a_slug_comes_out_and_runs() {
    let folder = site();
    let line = build_line();
    folder
        .type_(&format!("{line}; test $(docker wait $id) = 0 && docker cp $id:/tmp/slug.tgz . && docker logs $id"))
        .ok();
    folder.remove();

    // The same to stdout, where nothing else goes.
    let said = folder.type_(
        "git archive master | docker run -i -a stdin -a stdout -a stderr flynn/slugbuilder - > slug2.tgz",
    );
    assert!(said.err.contains("Procfile declares types -> web"), "{said:?}");
    said.ok();
    folder.sh("cmp slug.tgz slug2.tgz").ok();
    folder.remove();

    let port = free_port();
    let serve = format!(
        "cat slug.tgz | docker run -i -a stdin -a stdout -p {port}:8080 -e PORT=8080 flynn/slugrunner start web \
         >serve.log 2>&1 &"
    );
    folder.type_(&serve).ok();
    let answer = get(port);
    assert!(answer.ends_with("hello from the slug"), "{answer}");
    assert_eq!(folder.sh(&format!("docker stop {}", folder.name)).ok().trim(), folder.name);
}

/// What was PUT, by path.
type Blobs = Mutex<HashMap<String, Vec<u8>>>;

/// A store: what is PUT can be got.
fn store() -> (String, Arc<Blobs>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let blobs: Arc<Blobs> = Arc::default();
    let kept = blobs.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // A client that goes away is no end of the store.
            let _ = answer(connection.unwrap(), &kept);
        }
    });
    (base, blobs)
}

fn answer(mut connection: TcpStream, blobs: &Blobs) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut blobs = blobs.lock().unwrap();
    let (status, body) = match (&*method, blobs.get(&path)) {
        ("PUT", _) => {
            blobs.insert(path, body);
            ("200 OK", Vec::new())
        }
        (_, Some(blob)) => ("200 OK", blob.clone()),
        (_, None) => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )?;
    connection.write_all(&body)
}

#[test]
fn a_slug_goes_to_a_url_and_comes_from_one() {
    let (base, blobs) = store();
    let folder = site();
    folder
        .type_(&format!(
            "git archive master | docker run --network host -i -a stdin -a stdout flynn/slugbuilder {base}/app.tgz"
        ))
        .ok();
    assert!(blobs.lock().unwrap()["/app.tgz"].starts_with(&[0x1f, 0x8b]));
    folder.remove();
    let port = free_port();
    folder
        .type_(&format!(
            "docker run -d --network host -e SLUG_URL={base}/app.tgz -e PORT={port} flynn/slugrunner start web"
        ))
        .ok();
    let answer = get(port);
    assert!(answer.ends_with("hello from the slug"), "{answer}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = site();
    let none = folder.type_("docker run -i flynn/slugbuilder </dev/null").refused();
    assert!(none.contains("git archive master"), "{none}");
    folder.remove();
    let place =
        folder.type_("git archive master | docker run -i flynn/slugbuilder slug.tgz").refused();
    assert!(place.contains("no place for a slug"), "{place}");
    folder.remove();
    let no_slug = folder.type_("echo no slug | docker run -i flynn/slugrunner start web").refused();
    assert!(no_slug.contains("is no slug"), "{no_slug}");
    folder.remove();
    let no_url = "docker run -e SLUG_URL=http://127.0.0.1:9/x flynn/slugrunner start web";
    let no_url = folder.type_(no_url).refused();
    assert!(no_url.contains("SLUG_URL"), "{no_url}");
}

/// What pushed code tries against the builder, run as flynn runs it. It leaves what it found out in the slug.
const HOSTILE: &str = r#"
exec 2>/dev/null
for process in /proc/[0-9]*; do
    [ "$(cat $process/comm)" = slugbuilder ] || continue
    echo "saw $process" >>seen
    tr '\0' '\n' <$process/environ | grep SECRET && echo "environ of $process" >>leak
    head -c 1 $process/mem >/dev/null && echo "memory of $process" >>leak
    ls $process/fd >/dev/null && echo "files of $process" >>leak
done
# Orphans, and one that would write into the slug for as long as it lives.
for n in 1 2 3 4 5; do (sleep 0.1 &) ; done
setsid bash -c 'while :; do echo x >>late; done' >/dev/null 2>&1 &
sleep 1
ps -e -o stat= | grep -c ^Z >zombies
exit 0
"#;

#[test]
fn pushed_code_cannot_read_the_builder_and_nothing_of_it_stays() {
    let package =
        r#"{"name": "hostile", "version": "1.0.0", "scripts": {"build": "bash hostile.sh"}}"#;
    let folder = Folder::new(&[
        ("package.json", package),
        ("Procfile", "web: x\n"),
        ("hostile.sh", HOSTILE),
    ]);
    let flags = "--cap-drop ALL --security-opt no-new-privileges -e SLUG_PUT_URL=SECRET";
    folder
        .type_(&format!(
            "git archive master | docker run {flags} -i -a stdin -a stdout -a stderr flynn/slugbuilder - >slug.tgz"
        ))
        .ok();
    folder.sh("mkdir slug && tar -xzf slug.tgz -C slug").ok();
    let read = |name: &str| fs::read_to_string(folder.dir.path().join("slug").join(name));
    assert!(read("seen").unwrap().lines().count() >= 2, "it did not find the builder");
    assert!(read("leak").is_err(), "{:?}", read("leak"));
    assert_eq!(read("zombies").unwrap().trim(), "0", "orphans are not reaped");
}

#[test]
fn names_links_and_modes_of_files_arrive_as_they_were_committed() {
    let folder = Folder::new(&[("list.py", LIST), ("Procfile", "web: x\n"), ("make.py", ODD)]);
    folder.sh("python3 make.py && rm make.py").ok();
    folder.commit();
    let here = folder.sh("python3 list.py").ok();
    folder
        .type_("git archive master | docker run -i -a stdin -a stdout flynn/slugbuilder - >../odd.tgz; mv ../odd.tgz .git/")
        .ok();
    folder.remove();
    let there =
        folder.type_("cat .git/odd.tgz | docker run -i flynn/slugrunner python3 list.py").ok();
    assert_eq!(here, there);
    folder.remove();
    let line = r#"cat .git/odd.tgz | docker run -i flynn/slugrunner "'./bin/run me.sh'""#;
    assert_eq!(folder.type_(line).ok(), "ran\n");
}

const LIST: &str = r"import hashlib, os
skip = {b'.git', b'.release', b'.profile.d', b'__pycache__'}
rows = []
for folder, dirs, files in os.walk(b'.'):
    dirs[:] = [d for d in dirs if d not in skip]
    for name in files + [d for d in dirs if os.path.islink(os.path.join(folder, d))]:
        if name in skip: continue
        path = os.path.join(folder, name)
        if os.path.islink(path): rows.append('%r -> %r' % (path, os.readlink(path)))
        else: rows.append('%r %s %s' % (path, 'x' if os.stat(path).st_mode & 0o100 else '-', hashlib.sha256(open(path, 'rb').read()).hexdigest()[:12]))
print('\n'.join(sorted(set(rows))))
";

const ODD: &str = r#"import os, unicodedata
def put(name, text=b'x\n', mode=0o644):
    path = name if isinstance(name, bytes) else name.encode()
    folder = os.path.dirname(path)
    if folder: os.makedirs(folder, exist_ok=True)
    with open(path, 'wb') as f: f.write(text)
    os.chmod(path, mode)
put('with space/a file.txt'); put('tab\there.txt'); put('line\nend.txt'); put('-rf'); put('--help'); put('.hidden/.deep'); put('empty', b'')
put(unicodedata.normalize('NFC', 'ünïcödé/名前-\U0001f680.txt')); put(unicodedata.normalize('NFD', 'zerlegt-ü.txt'))
put(b'latin1-caf\xe9.txt'); put('quote\'s and "more".txt'); put('back\\slash.txt'); put('$(id) `id` %s;&|*.txt'); put('trailing.dot.')
put('/'.join(['folder-number-%02d' % n for n in range(16)]) + '/' + 'n' * 200 + '.txt')
put('m' * 255); put('bin/run me.sh', b'#!/bin/sh\necho ran\n', 0o755); put('big.dat', bytes(range(256)) * 4096)
os.symlink('with space/a file.txt', 'link-file'); os.symlink('bin', 'link-folder'); os.symlink('nowhere', 'link-dead')
os.symlink('/home/somebody/storage', 'link-absolute'); os.symlink('../../outside', 'link-outside')
os.symlink('link-loop', 'link-loop'); os.symlink('ziel-ü', 'link-ü')
"#;
