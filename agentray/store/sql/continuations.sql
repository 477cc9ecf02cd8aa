-- name: admit_continuations
-- Admit runs that go on with others; see the function in the migrations.
SELECT admit_continuations($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);
