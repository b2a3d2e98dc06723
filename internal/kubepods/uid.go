// The names of pods' control groups.

package kubepods

import (
	"regexp"
	"strings"
)

// The names of pods' groups. The UID of a static pod is a hash of 32 digits.
var (
	// Driver cgroupfs: pod<UID>.
	cgroupfsPod = regexp.MustCompile(`^pod([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})$`)
	// Driver systemd: kubepods-burstable-pod<UID>.slice, with _ for - in the UID, and more in front if
	// the kubelet has a --cgroup-root.
	systemdPod = regexp.MustCompile(
		`^(?:.+-)?kubepods(?:-besteffort|-burstable)?-pod([0-9a-f]{8}(?:_[0-9a-f]{4}){3}_[0-9a-f]{12}|[0-9a-f]{32})\.slice$`)
)

// UID returns the UID of the pod whose control group has a name, or false if it is not the name of
// a pod's. Of nested groups with such names, only the outermost is the kubelet's: a pod may name
// groups below its own as it likes.
func UID(name string) (uid string, ok bool) {
	if found := cgroupfsPod.FindStringSubmatch(name); found != nil {
		return found[1], true
	}
	if found := systemdPod.FindStringSubmatch(name); found != nil {
		return strings.ReplaceAll(found[1], "_", "-"), true
	}
	return "", false
}

func isPod(name string) bool {
	_, ok := UID(name)
	return ok
}
