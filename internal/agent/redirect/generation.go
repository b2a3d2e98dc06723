// Which of two agents on one node has the rules. While the agent is upgraded, the old and the new one run
// side by side; the newer wins, and the older leaves the rules alone for as long as the newer answers.

package redirect

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// generation is when an agent started, in nanoseconds since the machine did: rules do not outlive a boot,
// and unlike the time of day this never goes backwards. It stands in the comment of the divert rule.
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

// comment is what stands at the divert rule; handover is Config.Handover.
func (g generation) comment(handover string) string {
	c := generationPrefix + strconv.FormatUint(uint64(g), 10)
	if handover != "" {
		c += " " + handoverPrefix + handover
	}
	return c
}

func parseComment(comment string) (g generation, handover string, ok bool) {
	rest, ok := strings.CutPrefix(comment, generationPrefix)
	if !ok {
		return 0, "", false
	}
	digits, rest, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(digits, 10, 64)
	handover, _ = strings.CutPrefix(rest, handoverPrefix)
	return generation(n), handover, err == nil
}
