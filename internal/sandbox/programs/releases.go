// The official release archives, with the checksums that they must have.

package programs

import "runtime"

// release is an official archive of programs for one architecture.
type release struct {
	folder, version, arch string
	// site is where the archive is unless a mirror replaces it; path follows the site or the
	// mirror.
	site, path string
	// sha512 is the archive's checksum in hexadecimal digits.
	sha512 string
	// dir is the folder inside the archive that holds the programs.
	dir string
}

// releases lists the archives whose checksum is known; everything else is built from source. A
// checksum is copied from what the project publishes, never computed from a download.
//
// Kubernetes: CHANGELOG/CHANGELOG-1.34.md of github.com/kubernetes/kubernetes, "Downloads for
// v1.34.4", server binaries. etcd has no entry because the checksums of v3.6.4 are not at hand; it
// is a small build next to Kubernetes.
var releases = []release{ //nolint:gochecknoglobals // a constant table
	kubernetesRelease("v1.34.4", "amd64",
		"65c75e81e3ea488f6d42b493cad64d7577ddfa1e5372037a1c841ac069039997"+
			"d359b5b2f2d44e7665bf04c48ed0065cf9d4c9801b1e63bb6a1b099ef00d4863"),
	kubernetesRelease("v1.34.4", "arm64",
		"a1fad7060ed67b5634f32f3256a295179dd887dab5c82b8550c2eb62c69df34c"+
			"fbb311c8f93e7608d558eba32b9e2ddc23976db39e512fd747cc6bf9b4c1765f"),
}

func kubernetesRelease(version, arch, sha512 string) release {
	return release{
		folder: "kubernetes", version: version, arch: arch, sha512: sha512,
		site: "https://dl.k8s.io", path: version + "/kubernetes-server-linux-" + arch + ".tar.gz",
		dir: "kubernetes/server/bin",
	}
}

// findRelease returns the archive with this machine's programs of a version.
func findRelease(all []release, folder, version string) (release, bool) {
	for _, r := range all {
		if r.folder == folder && r.version == version && r.arch == runtime.GOARCH {
			return r, true
		}
	}
	return release{}, false
}
