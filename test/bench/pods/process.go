// The product's processes in the sandbox.

package pods

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// process returns a program of the product by its component label, which is also its name.
func (b *bench) process(ctx context.Context, component string) (int, error) {
	return b.programOf(ctx, component, component)
}

// programOf returns the process with a name in the pod of a component: the name of its control
// group contains its pod's UID.
func (b *bench) programOf(ctx context.Context, component, name string) (int, error) {
	pods, err := b.client.CoreV1().Pods("podid").List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", component, err)
	}
	for i := range pods.Items {
		if pid, err := processOf(string(pods.Items[i].UID), name); err == nil {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("find %s: no process of its %d pod(s)", name, len(pods.Items))
}

// processOf returns the process with that name in a pod, and with these arguments among its own.
func processOf(uid, name string, args ...string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte(uid)) {
			continue // ended meanwhile, or another user's
		}
		comm, err := os.ReadFile(filepath.Join(filepath.Dir(file), "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == name && hasArguments(filepath.Dir(file), args) {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, errors.New("no such process")
}

// hasArguments reports whether these are among the arguments of a process, whose folder is given.
func hasArguments(process string, args []string) bool {
	line, err := os.ReadFile(filepath.Join(process, "cmdline"))
	all := strings.Split(string(line), "\x00")
	return err == nil && !slices.ContainsFunc(args, func(a string) bool { return !slices.Contains(all, a) })
}
