package programs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/podid-io/podid/internal/sandbox/progress"
)

// proxied counts the requests that went to the proxy of the environment. TestMain sets it for all
// tests, so that a test that asks any address but a loopback one fails.
var proxied = make(chan string, 16) // net/http reads the proxy settings once per process

func TestMain(m *testing.M) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied <- r.URL.String()
		w.WriteHeader(http.StatusNotFound)
	}))
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		_ = os.Setenv(name, proxy.URL)
	}
	os.Exit(m.Run())
}

// archive returns a release archive with the programs and something else.
func archive(t *testing.T, programs ...string) []byte {
	var buf bytes.Buffer
	zipped := gzip.NewWriter(&buf)
	files := tar.NewWriter(zipped)
	add := func(name, content string) {
		header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}
		if err := files.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(files, content); err != nil {
			t.Fatal(err)
		}
	}
	add("kubernetes/addons/kubelet", "not the program")
	for _, p := range programs {
		add("kubernetes/server/bin/"+p, script("Kubernetes v1.34.4"))
	}
	add("kubernetes/LICENSES", strings.Repeat("text ", 10_000))
	if err := errors.Join(files.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func testRelease(content []byte, site string) release {
	sum := sha512.Sum512(content)
	r := kubernetesRelease("v1.34.4", runtime.GOARCH, hex.EncodeToString(sum[:]))
	r.site = site
	return r
}

// server serves the content, with ranges, and records what was asked for.
func server(t *testing.T, content []byte) (url string, requests *[]string) {
	requests = &[]string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*requests = append(*requests, r.URL.Path+" "+r.Header.Get("Range"))
		http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(s.Close)
	return s.URL, requests
}

type discard struct{}

func (discard) Far(string, ...any) {}

func TestFetch(t *testing.T) {
	content := archive(t, "kubelet")
	path := "/v1.34.4/kubernetes-server-linux-" + runtime.GOARCH + ".tar.gz "
	half := strconv.Itoa(len(content) / 2)
	tests := []struct {
		name    string
		partial []byte // what an earlier run left
		want    []string
	}{
		{"fresh", nil, []string{path}},
		{"resumed", content[:len(content)/2], []string{path + "bytes=" + half + "-"}},
		{"complete", content, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			url, requests := server(t, content)
			d := newDownloader(t.TempDir(), url+"/")
			r := testRelease(content, "https://unused.invalid")
			if err := os.WriteFile(filepath.Join(d.dir, "v1.34.4-kubernetes-server-linux-"+runtime.GOARCH+".tar.gz"), tt.partial, 0o644); err != nil {
				t.Fatal(err)
			}
			file, err := d.fetch(t.Context(), r, discard{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, content) {
				t.Errorf("got %d bytes of %d, %v", len(got), len(content), err)
			}
			if fmt.Sprint(*requests) != fmt.Sprint(tt.want) {
				t.Errorf("requested %q, want %q", *requests, tt.want)
			}
		})
	}
}

// A connection that breaks is resumed where it broke, in the same run.
func TestFetchBroken(t *testing.T) {
	content := archive(t, "kubelet")
	var ranges []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = w.Write(content[:100])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(content))
	}))
	defer s.Close()
	if _, err := newDownloader(t.TempDir(), "").fetch(t.Context(), testRelease(content, s.URL), discard{}); err != nil {
		t.Fatal(err)
	}
	if len(ranges) != 2 || ranges[1] != "bytes=100-" {
		t.Errorf("requests with ranges %q", ranges)
	}
}

// A server without ranges sends the whole archive again, which replaces the partial file.
func TestFetchWithoutRanges(t *testing.T) {
	content := archive(t, "kubelet")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }))
	defer s.Close()
	d := newDownloader(t.TempDir(), "")
	r := testRelease(content, s.URL)
	if err := os.WriteFile(filepath.Join(d.dir, "v1.34.4-"+filepath.Base(r.path)), []byte("left over"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := d.fetch(t.Context(), r, discard{}); err != nil {
		t.Error(err)
	}
}

func TestFetchRefused(t *testing.T) {
	content := archive(t, "kubelet")
	ended := make(chan struct{})
	defer close(ended)
	silent := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}
	stalling := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_ = http.NewResponseController(w).Flush()
		silent(w, r)
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		want    string
		kept    bool
	}{
		{"missing", http.NotFound, "404 Not Found", true},
		{"silent", silent, errSilent.Error(), true},
		{"silent after the header", stalling, errSilent.Error(), true},
		{"forged", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("forged")) }, "wrong checksum", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(tt.handler)
			defer s.Close()
			d := newDownloader(t.TempDir(), "")
			if tt.want == errSilent.Error() {
				d.firstByte = 100 * time.Millisecond
			}
			r := testRelease(content, s.URL)
			_, err := d.fetch(t.Context(), r, discard{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(d.dir, "v1.34.4-"+filepath.Base(r.path))); (err == nil) != tt.kept {
				t.Errorf("partial file: %v", err)
			}
		})
	}
}

func TestFetchProxy(t *testing.T) {
	d := newDownloader(t.TempDir(), "http://mirror.invalid/kubernetes")
	if _, err := d.fetch(t.Context(), testRelease(nil, "unused"), discard{}); !errors.Is(err, errUnavailable) {
		t.Errorf("error %v", err)
	}
	select {
	case got := <-proxied:
		if want := "http://mirror.invalid/kubernetes/v1.34.4/"; !strings.HasPrefix(got, want) {
			t.Errorf("the proxy was asked for %s", got)
		}
	default:
		t.Error("the proxy was not asked")
	}
}

// The programs of a release end in the cache, where the next run finds them.
func TestDownload(t *testing.T) {
	kubelet, proxy := kind{name: "kubelet", ask: []string{"--version"}, source: kubernetes("kubelet")},
		kind{name: "kube-proxy", ask: []string{"--version"}, source: kubernetes("kube-proxy")}
	etcd := kind{name: "etcd", source: &source{folder: "etcd", pinned: "go.etcd.io/etcd/server/v3"}}
	tests := []struct {
		name     string
		origin   origin
		programs []string // in the archive
		rest     string
		fails    bool
	}{
		{"complete", fromEither, []string{"kubelet", "kube-proxy"}, "[etcd]", false},
		{"incomplete", fromEither, []string{"kubelet"}, "[etcd kubelet kube-proxy]", false},
		{"incomplete, no build allowed", fromRelease, []string{"kubelet"}, "[]", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			content := archive(t, tt.programs...)
			url, _ := server(t, content)
			var report bytes.Buffer
			p := preparation{
				cache: t.TempDir(), checkout: checkout(t), getenv: func(string) string { return "" }, origin: tt.origin,
				report: progress.New(&report), releases: []release{testRelease(content, url)},
				set: Set{Paths: map[string]string{}, Kubernetes: "v1.34.4"},
			}
			rest, err := p.download(t.Context(), []kind{etcd, kubelet, proxy})
			if (err != nil) != tt.fails || fmt.Sprint(names(rest)) != tt.rest {
				t.Fatalf("to build: %v, %v", names(rest), err)
			}
			if !strings.Contains(report.String(), "no checksum of an official etcd v3.6.4 archive is recorded") {
				t.Errorf("report:\n%s", &report)
			}
			if len(rest) > 1 || tt.fails {
				return
			}
			for _, k := range []kind{kubelet, proxy} {
				if want := filepath.Join(p.cache, "kubernetes/v1.34.4", k.name); p.set.Paths[k.name] != want {
					t.Errorf("%s is %q, want %q", k.name, p.set.Paths[k.name], want)
				}
			}
		})
	}
}

func TestParseOrigin(t *testing.T) {
	for value, want := range map[string]origin{"": fromEither, "auto": fromEither, "source": fromSource, "download": fromRelease, "yes": ""} {
		if got, err := parseOrigin(value); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
}

// The pinned Kubernetes has an archive for both architectures: a new pin needs new checksums.
func TestReleases(t *testing.T) {
	checkout, err := Source()
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := kubernetes("").version(checkout)
	if err != nil {
		t.Fatal(err)
	}
	archs := map[string]bool{}
	for _, r := range releases {
		if sum, err := hex.DecodeString(r.sha512); err != nil || len(sum) != sha512.Size {
			t.Errorf("%s: %d bytes of checksum, %v", r.path, len(sum), err)
		}
		if r.folder == "kubernetes" && r.version == pinned {
			archs[r.arch] = true
		}
	}
	if !archs["amd64"] || !archs["arm64"] {
		t.Errorf("Kubernetes %s has checksums for %v only", pinned, archs)
	}
}
