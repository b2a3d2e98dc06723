// Reading logs.
package sandbox

import (
	"os"
	"strings"
)

// tail returns the last lines of a file, or says why it cannot.
func tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
