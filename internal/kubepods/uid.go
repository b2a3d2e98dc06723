// The names of pods' control groups.

package kubepods

import (
	"fmt"
	"path"
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

// The UID of a pod, or of a static pod.
var podUID = regexp.MustCompile(`^(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})$`)

// IsUID reports whether a text can be the UID of a pod in the name of its control group.
func IsUID(text string) bool { return podUID.MatchString(text) }

// Folders returns where the kubelet may have made the control group of a pod, one for each class of
// service, given the folder of its group of pods (see Find) and the pod's UID. An error means that
// the UID is none. No other text becomes part of a path.
func Folders(kubepods, uid string) ([]string, error) {
	if !IsUID(uid) {
		return nil, fmt.Errorf("%.40q is not the UID of a pod", uid)
	}
	const besteffort, burstable = "besteffort", "burstable"
	slice, systemd := strings.CutSuffix(path.Base(kubepods), ".slice")
	if !systemd {
		name := "pod" + uid
		return []string{
			path.Join(kubepods, name), path.Join(kubepods, burstable, name), path.Join(kubepods, besteffort, name),
		}, nil
	}
	name := "-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice"
	folders := []string{path.Join(kubepods, slice+name)}
	for _, class := range []string{burstable, besteffort} {
		class = slice + "-" + class
		folders = append(folders, path.Join(kubepods, class+".slice", class+name))
	}
	return folders, nil
}

func isPod(name string) bool {
	_, ok := UID(name)
	return ok
}
