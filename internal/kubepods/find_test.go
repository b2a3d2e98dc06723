package kubepods

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	v2     = "cgroup.controllers"
	hybrid = "unified/cgroup.controllers"
	pod    = "pod11111111-2222-3333-4444-555555555555"
	slice  = "pod11111111_2222_3333_4444_555555555555.slice"
)

// tree returns a file system with these files. A name that ends with a slash is a folder.
func tree(names ...string) fs.FS {
	files := fstest.MapFS{}
	for _, name := range names {
		if folder, ok := strings.CutSuffix(name, "/"); ok {
			files[folder] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		} else {
			files[name] = &fstest.MapFile{}
		}
	}
	return files
}

func TestFind(t *testing.T) {
	deep := func(levels int) string { return strings.Repeat("a/", levels-1) + "kubepods" }
	for _, tt := range []struct {
		name    string
		cgroups fs.FS
		want    string
		err     string // part of it
	}{
		{"systemd", tree(v2, "system.slice/", "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-"+slice+"/"), "kubepods.slice", ""},
		{"cgroupfs", tree(v2, "init.scope/", "kubepods/besteffort/"+pod+"/"), "kubepods", ""},
		{"no pods yet", tree(v2, "kubepods/besteffort/"), "kubepods", ""},
		{"hybrid, systemd", tree(hybrid, "memory/kubepods.slice/", "unified/kubepods.slice/"), "unified/kubepods.slice", ""},
		{"hybrid, cgroupfs", tree(hybrid, "memory/kubepods/", "unified/kubepods/"+pod+"/"), "unified/kubepods", ""},
		{"hybrid, pods in v1 alone", tree(hybrid, "memory/kubepods/"), "", ErrNotFound.Error()},
		{"cgroup-root, systemd", tree(v2, "a.slice/a-b.slice/a-b-kubepods.slice/a-b-kubepods-"+slice+"/"), "a.slice/a-b.slice/a-b-kubepods.slice", ""},
		{"cgroup-root, cgroupfs", tree(v2, "a/b/kubepods/"+pod+"/"), "a/b/kubepods", ""},
		{"cgroup-root, hybrid", tree(hybrid, "unified/a/kubepods/"+pod+"/"), "unified/a/kubepods", ""},
		{"pod's own cluster", tree(v2, "kubepods/"+pod+"/c/kubepods/"+pod+"/"), "kubepods", ""},
		{"not looked into", tree(v2, "kubepods/other/kubepods/"+pod+"/c/"), "kubepods", ""},
		{"container's own cluster", tree(v2, "docker/0a/kubepods/"+pod+"/", "kubepods/"+pod+"/"), "kubepods", ""},
		{"other driver before", tree(v2, "kubepods.slice/kubepods-burstable.slice/", "kubepods/"+pod+"/"), "kubepods", ""},
		{"other cgroup-root before", tree(v2, "kubepods/burstable/", "a/kubepods/burstable/"+pod+"/"), "a/kubepods", ""},
		{"two with pods", tree(v2, "kubepods.slice/kubepods-"+slice+"/", "kubepods/"+pod+"/"), "", "both look like it"},
		{"two without", tree(v2, "kubepods.slice/", "kubepods/"), "", "both look like it"},
		{"twelve levels", tree(v2, deep(12)+"/"), deep(12), ""},
		{"thirteen levels", tree(v2, deep(13)+"/"), "", "13 levels deep"},
		{"hybrid, twelve levels", tree(hybrid, "unified/"+deep(12)+"/"), "unified/" + deep(12), ""},
		{"hybrid, thirteen levels", tree(hybrid, "unified/"+deep(13)+"/"), "", "--cgroup-root nearer the top"},
		{"v1", tree("memory/kubepods/"+pod+"/", "cpu/kubepods/"), "", "the wire"},
		{"no kubelet", tree(v2, "system.slice/"), "", "--cgroups-per-qos=false"},
		{"a file", tree(v2, "kubepods"), "", ErrNotFound.Error()},
		{"nothing mounted", tree(), "", "no control groups are mounted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Find(tt.cgroups)
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q, %v, want %q, %q", got, err, tt.want, tt.err)
			}
		})
	}
}

// TestFindKinds: a program can find out why, to use the wire instead or to wait.
func TestFindKinds(t *testing.T) {
	if _, err := Find(tree("memory/")); !errors.Is(err, ErrVersion1) {
		t.Errorf("v1: %v", err)
	}
	if _, err := Find(tree(v2)); !errors.Is(err, ErrNotFound) {
		t.Errorf("no kubelet: %v", err)
	}
	if _, err := Find(os.DirFS(filepath.Join(t.TempDir(), "missing"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// TestFindVanishing: groups that go while they are read are no failure.
func TestFindVanishing(t *testing.T) {
	got, err := Find(vanishing{tree(v2, "gone/", "kubepods/"+pod+"/").(fs.ReadDirFS)})
	if got != "kubepods" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

type vanishing struct{ fs.ReadDirFS }

func (v vanishing) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == "gone" {
		return nil, fs.ErrNotExist
	}
	return v.ReadDirFS.ReadDir(name)
}
