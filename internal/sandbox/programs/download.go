// Downloads of release archives: resumable, bounded in every wait, and checked before use.

package programs

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// firstByte is how long a server may take to begin its answer.
	firstByte = 10 * time.Second
	// stall is the longest pause inside a download.
	stall = 30 * time.Second
	// attempts bounds the requests for one archive; each continues where the last one broke off.
	attempts = 5
)

var (
	errUnavailable = errors.New("the server does not offer it")
	errSilent      = errors.New("the server sent nothing for too long")
)

// downloader fetches release archives into a folder, where an interrupted download stays for the
// next run.
type downloader struct {
	client *http.Client
	dir    string
	// mirror replaces the site of every release unless it is empty.
	mirror string
	// firstByte and stall are the constants of the same names, shorter in tests.
	firstByte, stall time.Duration
}

// newDownloader returns a downloader that honors the proxy settings of the environment.
func newDownloader(dir, mirror string) *downloader {
	dialer := &net.Dialer{Timeout: firstByte}
	return &downloader{
		client: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext}},
		dir:    dir, mirror: mirror, firstByte: firstByte, stall: stall,
	}
}

// fetch downloads the archive, checks it, and returns its file.
func (d *downloader) fetch(ctx context.Context, r release, step Step) (string, error) {
	site := r.site
	if d.mirror != "" {
		site = strings.TrimSuffix(d.mirror, "/")
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return "", err
	}
	part := filepath.Join(d.dir, r.version+"-"+path.Base(r.path))
	if verify(part, r.sha512) == nil {
		return part, nil // an earlier run was interrupted while it unpacked
	}
	if err := d.complete(ctx, site+"/"+r.path, part, step); err != nil {
		return "", fmt.Errorf("download %s: %w", site+"/"+r.path, err)
	}
	step.Far("checking the checksum")
	if err := verify(part, r.sha512); err != nil {
		return "", errors.Join(fmt.Errorf("download %s: %w", site+"/"+r.path, err), os.Remove(part))
	}
	return part, nil
}

// complete requests the archive until the file is complete. It gives up when a request brings
// nothing new.
func (d *downloader) complete(ctx context.Context, url, file string, step Step) error {
	var err error
	for range attempts {
		var got int64
		got, err = d.request(ctx, url, file, step)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case got == 0:
			return err
		}
		step.Far("resuming after: %v", err)
	}
	return err
}

// request makes one request and appends what it brings to the file. It returns how many bytes that
// were.
func (d *downloader) request(ctx context.Context, url, file string, step Step) (got int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(d.firstByte, func() { cancel(errSilent) })
	defer watchdog.Stop()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	body, have, total, err := d.open(ctx, url, info.Size())
	if err != nil || body == nil {
		return 0, orCause(ctx, err)
	}
	defer func() { _ = body.Close() }()
	if err := f.Truncate(have); err != nil {
		return 0, err
	}
	watched := readerFunc(func(p []byte) (int, error) {
		n, err := body.Read(p)
		watchdog.Reset(d.stall)
		have += int64(n)
		step.Far("%s", megabytes(have, total))
		return n, err
	})
	got, err = io.Copy(f, watched)
	return got, orCause(ctx, err)
}

// open starts a download from an offset. It returns the offset at which the body really begins and
// the size of the whole archive; the body is nil when nothing is missing.
func (d *downloader) open(ctx context.Context, url string, offset int64) (body io.ReadCloser, begin, total int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, 0, 0, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, 0, 0, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.Body, 0, resp.ContentLength, nil
	case http.StatusPartialContent:
		if strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return resp.Body, offset, offset + resp.ContentLength, nil
		}
	case http.StatusRequestedRangeNotSatisfiable:
		_ = resp.Body.Close()
		return nil, offset, offset, nil // the file is complete, or the checksum will reject it
	}
	_ = resp.Body.Close()
	return nil, 0, 0, fmt.Errorf("%w: %s", errUnavailable, resp.Status)
}

// orCause prefers the reason for which a context was canceled to the error that this caused.
func orCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// megabytes renders how far a download is; the total is negative when the server did not name it.
func megabytes(have, total int64) string {
	if total < 0 {
		return fmt.Sprintf("%d MB", have>>20)
	}
	return fmt.Sprintf("%d of %d MB", have>>20, total>>20)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// verify compares a file's SHA-512 with the wanted one.
func verify(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	hash := sha512.New()
	if _, err := io.Copy(hash, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != want {
		return fmt.Errorf("wrong checksum: SHA-512 is %.16s…, want %.16s…", got, want)
	}
	return nil
}

// eachFile calls visit with every member of a compressed archive, until it has enough.
func eachFile(archive string, visit func(*tar.Header, io.Reader) (enough bool, err error)) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	plain, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for files := tar.NewReader(plain); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if enough, err := visit(header, files); enough || err != nil {
			return err
		}
	}
}

// unpack extracts the named programs from a folder of the archive. Each appears in the target
// folder only when it is complete.
func unpack(archive, dir, to string, names []string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	found := 0
	err := eachFile(archive, func(header *tar.Header, content io.Reader) (bool, error) {
		name := path.Base(header.Name)
		if header.Typeflag != tar.TypeReg || path.Clean(header.Name) != path.Join(dir, name) || !slices.Contains(names, name) {
			return false, nil
		}
		found++
		return found == len(names), writeProgram(filepath.Join(to, name), content)
	})
	if err == nil && found < len(names) {
		err = fmt.Errorf("the archive holds %d of %s", found, strings.Join(names, ", "))
	}
	return err
}

func writeProgram(file string, content io.Reader) error {
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, file)
}
