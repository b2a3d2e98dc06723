// Which of two agents on one node has the rules. During an upgrade the older and the newer agent
// run side by side. The newer one takes the rules, and the older one does not change them while the
// newer one answers.

package redirect

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// generation is the time at which an agent started, or last called Renew, in nanoseconds since the
// boot. Rules do not outlive a boot, and unlike the time of day this clock never goes back. The
// comment of the divert rule contains it.
type generation uint64

func currentGeneration() (generation, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("read the time since boot: %w", err)
	}
	return generation(now.Nano()), nil
}

const (
	generationPrefix = "podid generation "
	handoverPrefix   = "handover "
)

// comment returns the comment of the divert rule. secret is Config.HandoverSecret.
func (g generation) comment(secret string) string {
	c := generationPrefix + strconv.FormatUint(uint64(g), 10)
	if secret != "" {
		c += " " + handoverPrefix + secret
	}
	return c
}

// parseComment reads what comment returned.
func parseComment(comment string) (g generation, secret string, ok bool) {
	rest, ok := strings.CutPrefix(comment, generationPrefix)
	if !ok {
		return 0, "", false
	}
	digits, rest, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(digits, 10, 64)
	secret, _ = strings.CutPrefix(rest, handoverPrefix)
	return generation(n), secret, err == nil
}
