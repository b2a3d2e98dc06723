// The output of `podid cleanup`.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"

	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/uninstall"
)

// printPlan writes the plan to out, and remarks for people to notes.
func printPlan(out, notes io.Writer, plan uninstall.Plan, format string) error {
	rows := plan.Rows()
	if format == "json" || format == "yaml" {
		return printRows(out, rows, format)
	}
	if len(rows) > 0 {
		if err := printTable(out, rows, format == "wide"); err != nil {
			return err
		}
	}
	report(notes, plan)
	return nil
}

func printRows(out io.Writer, rows []uninstall.Row, format string) error {
	if rows == nil {
		rows = []uninstall.Row{}
	}
	text, err := json.MarshalIndent(map[string]any{"steps": rows}, "", "  ")
	if err == nil && format == "yaml" {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return fmt.Errorf("print plan: %w", err)
	}
	_, err = fmt.Fprintln(out, strings.TrimSuffix(string(text), "\n"))
	return err
}

// printTable shortens Azure's resource IDs to their last part unless wide is set.
func printTable(out io.Writer, rows []uninstall.Row, wide bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "ACTION\tKIND\tNAMESPACE\tNAME\tREASON") // Flush returns errors
	for _, row := range rows {
		name := row.Name
		if !wide && strings.HasPrefix(name, "/") {
			name = path.Base(name)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", row.Action, row.Kind, row.Namespace, name, row.Reason)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print plan: %w", err)
	}
	return nil
}

// report writes what the table does not contain, and what will not be done.
func report(w io.Writer, plan uninstall.Plan) {
	rows := plan.Rows()
	if plan.Empty() {
		_, _ = fmt.Fprintln(w, "nothing to clean up")
	} else {
		_, _ = fmt.Fprintln(w, uninstall.Count(rows))
	}
	if plan.Living > 0 {
		_, _ = fmt.Fprintf(w, "%d assigned identities stay: their pods live (--all removes them, too)\n", plan.Living)
	}
	for _, row := range rows {
		if row.Action == "skip" {
			_, _ = fmt.Fprintf(w, "left: %s %s: %s\n", row.Kind, row.Name, row.Reason)
		}
	}
}

// doneLine returns the line for a row that is done.
func doneLine(row uninstall.Row) string {
	done := map[string]string{"delete": "deleted", "detach": "detached", "forget": "gone:"}[row.Action]
	name := row.Name
	if row.Namespace != "" {
		name = row.Namespace + "/" + name
	}
	if row.Kind == "Identity" {
		return fmt.Sprintf("%s %s %s", done, name, row.Reason)
	}
	return fmt.Sprintf("%s %s %s", done, ascii.ToLower(row.Kind), name)
}
