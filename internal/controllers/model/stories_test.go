// Histories that random generation would rarely or never produce.

package model

import (
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestStories(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	many := setup{Namespaced: true, Grace: 30 * time.Second, Drift: 3 * time.Minute, Update: 2 * time.Second, Writers: 20, Crowd: 160}
	slowly := many
	slowly.Writers, slowly.Write, slowly.Update, slowly.Crowd = 1, 10*time.Millisecond, 45*time.Second, 40
	calm := setup{Grace: 30 * time.Second, Update: 45 * time.Second, Writers: 20}
	atOnce := setup{Drift: 3 * time.Minute, Writers: 20, Lag: [5]time.Duration{3: 5 * time.Millisecond}}
	pod, leaves := step{"crowd pod", 0, 0, 0}, step{"kill", 0, 0, 0}
	for name, story := range map[string]struct {
		setup   setup
		history []step
	}{
		"more than one request holds": {many, []step{pod, {"crowd pod", 1, 0, 1}}},
		"killed on the way":           {slowly, []step{pod, {"wait", 1, 0, 0}, leaves, {"wait", 4, 0, 0}, leaves}},
		"one refused without a name":  {many, []step{{"rebind", 0, 0, 0}, {"fate", 0, 2, 0}, {"pod", 0, 0, 0}, pod, {"wait", 1, 0, 0}}},
		"answers lost":                {slowly, []step{{"fault", 6, 2, 0}, pod, {"wait", 4, 0, 0}, {"crowd pod", 1, 2, 0}}},
		"gone before it is there":     {slowly, []step{pod, {"wait", 2, 0, 0}, {"node leaves", 0, 0, 0}, {"node leaves", 1, 0, 0}}},
		// Seed 16793201470512625324. MIC is killed during an update, and an upgrade of the machines
		// begins right after it. The next MIC therefore never sees the group without an operation.
		"upgraded right after a predecessor's update": {calm, []step{
			{"pod", 2, 0, 1}, {"wait", 2, 0, 0}, {"kill", 0, 0, 0}, {"wait", 4, 0, 0}, {"wait", 5, 0, 0}, {"upgrade", 0, 0, 0}, {"wait", 2, 0, 0},
		}},
		// Seed 6770198477700054209. The ledger is written but the response is lost, and the pod is
		// gone by then.
		"ledger written, answer lost": {atOnce, []step{
			{"pod", 2, 2, 0},
			{"hold", 0, 0, 0},
			{"API fault", 0, 1, 0},
			{"delete identity", 1, 6, 1},
			{"API fault", 1, 6, 2},
			{"move", 7, 3, 1},
			{"wait", 7, 3, 8},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if v := run(t, story.setup, story.history, logTo()); v.what != "" {
				t.Errorf("%s\n%s", story.setup, v)
			}
		})
	}
}
