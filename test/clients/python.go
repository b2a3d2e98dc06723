// Programs with the Azure SDKs for Python.

package clients

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoPython is returned, wrapped with the reason, if the Python clients are unavailable on this
// machine.
var ErrNoPython = errors.New("no Python clients")

// Python is the Python client.
type Python struct {
	// Interpreter is Debian's python3, to run with Script and PYTHONPATH=Path.
	Interpreter, Script, Path string
}

// interpreter is the python3 that Debian's packages are made for. Others do not work.
const interpreter = "/usr/bin/python3"

// Python downloads Debian's python3-azure and python3-msrestazure with their dependencies, and
// unpacks the part of them that the client uses. It installs nothing. It returns ErrNoPython if the
// machine is not suitable.
func (k Kit) Python(ctx context.Context) (Python, error) {
	if _, err := os.Stat(interpreter); err != nil {
		return Python{}, fmt.Errorf("%w: there is no %s: apt-get install python3", ErrNoPython, interpreter)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return Python{}, fmt.Errorf("%w: they are Debian packages, and there is no apt-get", ErrNoPython)
	}
	sum := sha256.Sum256([]byte(strings.Join(debianPackages(), " ") + strings.Join(parts(), " ")))
	dir := filepath.Join(k.Cache, fmt.Sprintf("python-%x", sum[:6]))
	p := Python{
		Interpreter: interpreter, Script: filepath.Join(k.Source, "python/main.py"), Path: filepath.Join(dir, modules),
	}
	if err := once(dir, func(part string) error { return unpackPython(ctx, part) }); err != nil {
		return p, err
	}
	return p, p.expected()
}

// expected reports whether the packages have the versions of Debian 12, which the tests expect.
func (p Python) expected() error {
	for file, version := range map[string]string{"azure/identity/_version.py": "1.13.0b2", "msrestazure/version.py": "0.6.4"} {
		text, err := os.ReadFile(filepath.Join(p.Path, file))
		if err != nil {
			return err
		}
		if !strings.Contains(string(text), `"`+version+`"`) {
			return fmt.Errorf("%w: they are known in the versions of Debian 12, and %s is not %s here", ErrNoPython, filepath.Dir(file), version)
		}
	}
	return nil
}

// modules is where Debian keeps Python's modules.
const modules = "usr/lib/python3/dist-packages"

// big is a package of 12 MB that unpacks to 600 MB. Only parts of it are unpacked.
const big = "python3-azure"

func parts() []string { return []string{"azure/__init__.py", "azure/core", "azure/identity"} }

// debianPackages returns the two packages and their dependencies, whether they are installed or
// not.
func debianPackages() []string {
	return []string{
		big, "python3-msrestazure", "python3-msrest", "python3-adal", "python3-msal", "python3-msal-extensions",
		"python3-portalocker", "python3-requests", "python3-urllib3", "python3-idna", "python3-charset-normalizer",
		"python3-chardet", "python3-certifi", "python3-isodate", "python3-requests-oauthlib", "python3-oauthlib",
		"python3-typing-extensions", "python3-six", "python3-dateutil", "python3-cryptography",
		"python3-cffi-backend", "python3-jwt",
	}
}

func unpackPython(ctx context.Context, dir string) error {
	if err := download(ctx, dir); err != nil {
		return fmt.Errorf("%w: %w", ErrNoPython, err)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		paths := []string{"./" + modules}
		if strings.HasPrefix(filepath.Base(deb), big+"_") {
			paths = nil
			for _, part := range parts() {
				paths = append(paths, "./"+modules+"/"+part)
			}
		}
		const unpack = `deb=$1; shift; dpkg-deb --fsys-tarfile "$deb" | tar -x "$@"`
		if err := run(ctx, dir, os.Environ(), "sh", append([]string{"-c", unpack, "sh", deb}, paths...)...); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	return nil
}

// download uses the package lists of the machine, and then fresh ones in a folder of its own. It
// does not change the machine's lists.
func download(ctx context.Context, dir string) error {
	get := append([]string{"-qq", "-o", "APT::Sandbox::User=root", "download"}, debianPackages()...)
	if run(ctx, dir, os.Environ(), "apt-get", get...) == nil {
		return nil
	}
	own, err := os.MkdirTemp(dir, ".apt-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(own) }()
	if err := os.MkdirAll(filepath.Join(own, "lists/partial"), 0o755); err != nil {
		return err
	}
	fresh := []string{"-o", "Dir::State::lists=" + filepath.Join(own, "lists"), "-o", "Dir::Cache=" + own}
	if err := run(ctx, dir, os.Environ(), "apt-get", append(fresh, "-qq", "-o", "APT::Sandbox::User=root", "update")...); err != nil {
		return err
	}
	return run(ctx, dir, os.Environ(), "apt-get", append(fresh, get...)...)
}
