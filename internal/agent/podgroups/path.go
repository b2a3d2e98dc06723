// The names of pods' folders.

package podgroups

import (
	"path"
	"regexp"
	"strings"
)

// podFolder matches the folders of pods: pod<UID> (driver cgroupfs) and kubepods-…-pod<UID>.slice
// (driver systemd, with _ for -). The UID of a static pod is a hash of 32 digits.
var podFolder = regexp.MustCompile(
	`^(?:kubepods(?:-besteffort|-burstable)?-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$`)

// podOf returns the UID of the pod that a folder is in, or "" for none. Of nested folders that look
// like a pod's, the outermost counts: a pod may make groups below its own, with any name.
func podOf(folder string) string {
	for part := range strings.SplitSeq(path.Clean(folder), "/") {
		if found := podFolder.FindStringSubmatch(part); found != nil {
			return strings.ReplaceAll(found[1], "_", "-")
		}
	}
	return ""
}
